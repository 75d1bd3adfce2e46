/* Makes calls to files fail and the wall clock wrong, for tests: loaded by LD_PRELOAD, steered
 * through a mapped file.
 *
 * Only regular files and directories below `root` are meant; sockets and everything else pass. The
 * control file (struct control, shared with shim.py) is named by FILE_FAULTS. Of the calls that
 * `ops` and `match` describe, number `at` gets the fault, and with `sticky` all behind it. Calls of
 * libc on its own behalf (stdio) and raw system calls do not come by here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x46464431u /* FFD1 */
#define TEXT 1024
#define TORN_EXIT 99

/* Numbers that shim.py has too: append, never renumber. */
enum op { OP_WRITE, OP_SYNC, OP_OPEN, OP_RENAME, OP_TRUNCATE, OP_ALLOCATE, OP_READ, OPS };
enum kind { KIND_NONE, KIND_ERROR, KIND_SHORT, KIND_TORN };

struct control {
    uint32_t magic;
    _Atomic uint32_t armed;
    uint32_t ops;   /* bit set of enum op */
    uint32_t kind;  /* enum kind */
    uint32_t error; /* errno of KIND_ERROR */
    uint32_t sticky;
    uint64_t at;                   /* from 1 */
    _Atomic uint64_t delay_ms;     /* of every sync below root, armed or not */
    _Atomic uint64_t seen;         /* calls that ops and match describe, while armed */
    _Atomic uint64_t hits;         /* faults given */
    _Atomic uint64_t again;        /* writes and syncs of the file that had the first fault, later */
    _Atomic uint64_t held;         /* syncs that wait for delay_ms now */
    _Atomic uint64_t counts[OPS];  /* all calls below root */
    _Atomic uint64_t failed_inode; /* of the first fault */
    _Atomic uint32_t failed_op;
    uint32_t unused;
    _Atomic int64_t clock_ms; /* by which the wall clock is ahead */
    char root[TEXT];   /* an absolute path without symlinks */
    char match[TEXT];  /* in the path; empty: any */
    char failed[TEXT]; /* path of the first fault */
};

static struct control *control;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("FILE_FAULTS");
    int descriptor = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0)
        return;
    void *found = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (found != MAP_FAILED && ((struct control *)found)->magic == MAGIC)
        control = found;
}

static int below_root(const char *path) {
    size_t size = strlen(control->root);
    return size && !strncmp(path, control->root, size) && (!path[size] || path[size] == '/');
}

/* The path of a descriptor into `path`; 0 when it is no file below root. */
static int ours(int descriptor, char *path, uint64_t *inode) {
    struct stat found;
    if (!control || fstat(descriptor, &found) || !(S_ISREG(found.st_mode) || S_ISDIR(found.st_mode)))
        return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    *inode = found.st_ino;
    return below_root(path);
}

/* Absolute, from a name that is perhaps relative to a directory; 0 when it is not below root. */
static int ours_by_name(int directory, const char *name, char *path) {
    if (!control || !name)
        return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else if (directory == AT_FDCWD) {
        if (!getcwd(path, PATH_MAX))
            return 0;
        size_t size = strlen(path);
        snprintf(path + size, PATH_MAX - size, "/%s", name);
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t size = readlink(link, path, PATH_MAX - 1);
        if (size < 0)
            return 0;
        snprintf(path + size, PATH_MAX - size, "/%s", name);
    }
    return below_root(path);
}

/* Counts a call; the kind of fault that it gets. */
static enum kind judge(enum op op, const char *path, uint64_t inode) {
    int saved = errno;
    atomic_fetch_add(&control->counts[op], 1);
    uint64_t failed = atomic_load(&control->failed_inode);
    if (failed && failed == inode && (op == OP_WRITE || op == OP_SYNC))
        atomic_fetch_add(&control->again, 1);
    errno = saved;
    if (!atomic_load(&control->armed) || !(control->ops >> op & 1))
        return KIND_NONE;
    if (control->match[0] && !strstr(path, control->match))
        return KIND_NONE;
    uint64_t number = atomic_fetch_add(&control->seen, 1) + 1;
    if (number != control->at && !(control->sticky && number > control->at))
        return KIND_NONE;
    if (!atomic_fetch_add(&control->hits, 1)) {
        snprintf(control->failed, TEXT, "%s", path);
        atomic_store(&control->failed_op, op);
        atomic_store(&control->failed_inode, inode);
    }
    return control->kind;
}

static enum kind judge_descriptor(enum op op, int descriptor) {
    char path[PATH_MAX];
    uint64_t inode = 0;
    int saved = errno;
    int meant = ours(descriptor, path, &inode);
    errno = saved;
    return meant ? judge(op, path, inode) : KIND_NONE;
}

static enum kind judge_name(enum op op, int directory, const char *name) {
    char path[PATH_MAX];
    int saved = errno;
    int meant = ours_by_name(directory, name, path);
    errno = saved;
    return meant ? judge(op, path, 0) : KIND_NONE;
}

static long fails(void) {
    errno = (int)control->error;
    return -1;
}

/* The real function behind a name, looked up once. */
#define REAL(type, name, ...)                                                                      \
    static type (*real)(__VA_ARGS__);                                                              \
    if (!real)                                                                                     \
    real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* What is left of `count` bytes under a fault: a torn write is the last thing of a process. */
#define DATA(call_of)                                                                              \
    enum kind kind = judge_descriptor(OP_WRITE, descriptor);                                       \
    if (kind == KIND_ERROR)                                                                        \
        return fails();                                                                            \
    if (kind == KIND_TORN || (kind == KIND_SHORT && size > 1)) {                                   \
        ssize_t written = call_of(size / 2);                                                       \
        if (kind == KIND_TORN)                                                                     \
            _exit(TORN_EXIT);                                                                      \
        return written;                                                                            \
    }                                                                                              \
    return call_of(size)

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
#define CALL(n) real(descriptor, data, n)
    DATA(CALL);
#undef CALL
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
#define CALL(n) real(descriptor, data, n, offset)
    DATA(CALL);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    DATA(CALL);
#undef CALL
}

/* Vectors: under a fault half of the bytes go, one vector after the other. */
static ssize_t some(int descriptor, const struct iovec *vectors, int count, off_t offset) {
    size_t left = 0, written = 0;
    for (int i = 0; i < count; i++)
        left += vectors[i].iov_len;
    left /= 2;
    REAL(ssize_t, "write", int, const void *, size_t);
    static ssize_t (*at)(int, const void *, size_t, off_t);
    if (!at)
        at = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    for (int i = 0; i < count && left; i++) {
        size_t size = vectors[i].iov_len < left ? vectors[i].iov_len : left;
        ssize_t done = offset < 0 ? real(descriptor, vectors[i].iov_base, size)
                                  : at(descriptor, vectors[i].iov_base, size, offset + written);
        if (done < 0)
            return written ? (ssize_t)written : -1;
        written += done;
        left -= size;
    }
    return written;
}

#define VECTORS(call, offset)                                                                      \
    enum kind kind = judge_descriptor(OP_WRITE, descriptor);                                       \
    if (kind == KIND_ERROR)                                                                        \
        return fails();                                                                            \
    if (kind != KIND_NONE) {                                                                       \
        ssize_t written = some(descriptor, vectors, count, offset);                                \
        if (kind == KIND_TORN)                                                                     \
            _exit(TORN_EXIT);                                                                      \
        if (written)                                                                               \
            return written;                                                                        \
    }                                                                                              \
    return call

ssize_t writev(int descriptor, const struct iovec *vectors, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    VECTORS(real(descriptor, vectors, count), -1);
}

ssize_t pwritev(int descriptor, const struct iovec *vectors, int count, off_t offset) {
    REAL(ssize_t, "pwritev", int, const struct iovec *, int, off_t);
    VECTORS(real(descriptor, vectors, count, offset), offset);
}

ssize_t pwritev64(int descriptor, const struct iovec *vectors, int count, off64_t offset) {
    REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off64_t);
    VECTORS(real(descriptor, vectors, count, offset), offset);
}

/* Syncs: these can be slow, too. */
static enum kind judge_sync(int descriptor) {
    enum kind kind = judge_descriptor(OP_SYNC, descriptor);
    if (kind == KIND_TORN)
        _exit(TORN_EXIT);
    char path[PATH_MAX];
    uint64_t inode;
    uint64_t delay = control ? atomic_load(&control->delay_ms) : 0;
    if (delay && ours(descriptor, path, &inode)) {
        struct timespec step = {0, 5 * 1000 * 1000};
        atomic_fetch_add(&control->held, 1);
        /* In steps, so that it ends as soon as the delay is taken away. */
        for (uint64_t waited = 0; waited < atomic_load(&control->delay_ms); waited += 5)
            nanosleep(&step, NULL);
        atomic_fetch_sub(&control->held, 1);
    }
    return kind;
}

#define SYNC(call)                                                                                 \
    return judge_sync(descriptor) == KIND_ERROR ? (int)fails() : call

int fsync(int descriptor) {
    REAL(int, "fsync", int);
    SYNC(real(descriptor));
}

int fdatasync(int descriptor) {
    REAL(int, "fdatasync", int);
    SYNC(real(descriptor));
}

int sync_file_range(int descriptor, off64_t offset, off64_t size, unsigned flags) {
    REAL(int, "sync_file_range", int, off64_t, off64_t, unsigned);
    SYNC(real(descriptor, offset, size, flags));
}

/* Calls that write no bytes: a torn one is one that never came back. */
#define JUDGED(verdict, call)                                                                      \
    switch (verdict) {                                                                             \
    case KIND_TORN:                                                                                \
        _exit(TORN_EXIT);                                                                          \
    case KIND_ERROR:                                                                               \
        return (int)fails();                                                                       \
    default:                                                                                       \
        return call;                                                                               \
    }

/* Names. */
#define NAMED(op, directory, name, call) JUDGED(judge_name(op, directory, name), call)

#define MODE()                                                                                     \
    mode_t mode = 0;                                                                               \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                           \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode = va_arg(rest, mode_t);                                                               \
        va_end(rest);                                                                              \
    }

#define OPENS(real_call, directory)                                                                \
    if (!(flags & O_CREAT))                                                                        \
        return real_call;                                                                          \
    NAMED(OP_OPEN, directory, path, real_call)

int open(const char *path, int flags, ...) {
    REAL(int, "open", const char *, int, ...);
    MODE();
    OPENS(real(path, flags, mode), AT_FDCWD)
}

int open64(const char *path, int flags, ...) {
    REAL(int, "open64", const char *, int, ...);
    MODE();
    OPENS(real(path, flags, mode), AT_FDCWD)
}

int openat(int directory, const char *path, int flags, ...) {
    REAL(int, "openat", int, const char *, int, ...);
    MODE();
    OPENS(real(directory, path, flags, mode), directory)
}

int openat64(int directory, const char *path, int flags, ...) {
    REAL(int, "openat64", int, const char *, int, ...);
    MODE();
    OPENS(real(directory, path, flags, mode), directory)
}

int creat(const char *path, mode_t mode) {
    REAL(int, "creat", const char *, mode_t);
    NAMED(OP_OPEN, AT_FDCWD, path, real(path, mode))
}

int rename(const char *old, const char *new) {
    REAL(int, "rename", const char *, const char *);
    NAMED(OP_RENAME, AT_FDCWD, new, real(old, new))
}

int renameat(int from, const char *old, int to, const char *new) {
    REAL(int, "renameat", int, const char *, int, const char *);
    NAMED(OP_RENAME, to, new, real(from, old, to, new))
}

/* Sizes. */
#define SIZED(op, call) JUDGED(judge_descriptor(op, descriptor), call)

int ftruncate(int descriptor, off_t size) {
    REAL(int, "ftruncate", int, off_t);
    SIZED(OP_TRUNCATE, real(descriptor, size))
}

int ftruncate64(int descriptor, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    SIZED(OP_TRUNCATE, real(descriptor, size))
}

int fallocate(int descriptor, int mode, off_t offset, off_t size) {
    REAL(int, "fallocate", int, int, off_t, off_t);
    SIZED(OP_ALLOCATE, real(descriptor, mode, offset, size))
}

int fallocate64(int descriptor, int mode, off64_t offset, off64_t size) {
    REAL(int, "fallocate64", int, int, off64_t, off64_t);
    SIZED(OP_ALLOCATE, real(descriptor, mode, offset, size))
}

/* These return the error instead of setting errno. */
#define ALLOCATES(call)                                                                            \
    return judge_descriptor(OP_ALLOCATE, descriptor) == KIND_ERROR ? (int)control->error : call

int posix_fallocate(int descriptor, off_t offset, off_t size) {
    REAL(int, "posix_fallocate", int, off_t, off_t);
    ALLOCATES(real(descriptor, offset, size));
}

int posix_fallocate64(int descriptor, off64_t offset, off64_t size) {
    REAL(int, "posix_fallocate64", int, off64_t, off64_t);
    ALLOCATES(real(descriptor, offset, size));
}

/* Reads: an error, or less than was asked for. */
#define READS(shorter, call)                                                                       \
    switch (judge_descriptor(OP_READ, descriptor)) {                                               \
    case KIND_ERROR:                                                                               \
        return fails();                                                                            \
    case KIND_SHORT:                                                                               \
        return size > 1 ? shorter : call;                                                          \
    default:                                                                                       \
        return call;                                                                               \
    }

ssize_t read(int descriptor, void *data, size_t size) {
    REAL(ssize_t, "read", int, void *, size_t);
    READS(real(descriptor, data, size / 2), real(descriptor, data, size))
}

ssize_t pread(int descriptor, void *data, size_t size, off_t offset) {
    REAL(ssize_t, "pread", int, void *, size_t, off_t);
    READS(real(descriptor, data, size / 2, offset), real(descriptor, data, size, offset))
}

ssize_t pread64(int descriptor, void *data, size_t size, off64_t offset) {
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    READS(real(descriptor, data, size / 2, offset), real(descriptor, data, size, offset))
}

ssize_t sendfile(int to, int descriptor, off_t *offset, size_t size) {
    REAL(ssize_t, "sendfile", int, int, off_t *, size_t);
    READS(real(to, descriptor, offset, size / 2), real(to, descriptor, offset, size))
}

ssize_t sendfile64(int to, int descriptor, off64_t *offset, size_t size) {
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    READS(real(to, descriptor, offset, size / 2), real(to, descriptor, offset, size))
}

/* The wall clock, which may jump; clocks that only measure time do not. */
static void shift(struct timespec *now) {
    int64_t ms = control ? atomic_load(&control->clock_ms) : 0;
    int64_t nanoseconds = now->tv_nsec + ms % 1000 * 1000000;
    now->tv_sec += ms / 1000;
    if (nanoseconds < 0) {
        nanoseconds += 1000000000;
        now->tv_sec--;
    } else if (nanoseconds >= 1000000000) {
        nanoseconds -= 1000000000;
        now->tv_sec++;
    }
    now->tv_nsec = nanoseconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int result = real(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        shift(now);
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    REAL(int, "gettimeofday", struct timeval *, void *);
    int result = real(now, zone);
    if (!result) {
        struct timespec shifted = {now->tv_sec, now->tv_usec * 1000};
        shift(&shifted);
        *now = (struct timeval){shifted.tv_sec, shifted.tv_nsec / 1000};
    }
    return result;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into)
        *into = now.tv_sec;
    return now.tv_sec;
}
