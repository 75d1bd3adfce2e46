// kvload drives a replicated key/value store and reports what an operation cost the caller
// (latency), the servers (CPU, memory) and itself (CPU). Every value that is read is checked.
//
// It prints one JSON object. Exit status: 0, or 1 when it could not run, or 3 when an operation
// failed or an answer was wrong.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

type flags struct {
	target, mode, spread      string
	clients, conns            int
	valueSize, keys, listed   int
	watchers, readPercent     int
	rate                      float64
	duration, warmup, timeout time.Duration
	pids                      []int
}

const (
	exitFailed     = 3
	garbagePercent = 400 // less collecting of garbage than by default: this is not what is measured
)

func parse() (*flags, *options, error) {
	var f flags
	flag.StringVar(&f.target, "target", "dfs", "kind of server: dfs, etcd, hraft")
	flag.StringVar(&f.mode, "mode", "put",
		"load (every key once), put, get, get-local, mixed, list, watch, failover, first-read, "+
			"ready, leader")
	nodes := flag.String("nodes", "", "comma-separated client addresses of all nodes")
	pids := flag.String("pids", "", "comma-separated server processes to account for")
	prefix := flag.String("prefix", "kv/", "directory of all keys, with a slash at its end")
	flag.IntVar(&f.clients, "clients", 64, "calls at once")
	flag.IntVar(&f.conns, "conns", 16, "connections; clients and watchers share them")
	flag.IntVar(&f.valueSize, "value", 100, "bytes of a value, at least 16")
	flag.IntVar(&f.keys, "keys", 100_000, "number of keys, chosen uniformly")
	flag.IntVar(&f.listed, "listed", 100, "list: keys in one list")
	flag.IntVar(&f.watchers, "watchers", 100, "watch: number of watchers")
	flag.IntVar(&f.readPercent, "reads", 90, "mixed: reads in a hundred operations")
	flag.Float64Var(&f.rate, "rate", 100, "watch: puts per second")
	flag.DurationVar(&f.duration, "duration", 5*time.Second, "measured time; the longest wait")
	flag.DurationVar(&f.warmup, "warmup", time.Second, "time before it")
	flag.DurationVar(&f.timeout, "timeout", 10*time.Second, "of one operation")
	flag.StringVar(&f.spread, "spread", "leader", "nodes to connect to: leader or all")
	flag.Parse()

	o := &options{nodes: strings.Split(*nodes, ","), prefix: *prefix, fill: filler(f.valueSize)}
	if *nodes == "" || !strings.HasSuffix(*prefix, "/") {
		return nil, nil, errors.New("-nodes must be given, and -prefix end with a slash")
	}
	if min(f.keys, f.clients, f.conns, f.listed, f.watchers) < 1 || f.rate <= 0 {
		return nil, nil, errors.New("counts and rates must be more than 0")
	}
	for _, s := range strings.FieldsFunc(*pids, func(c rune) bool { return c == ',' }) {
		pid, err := strconv.Atoi(s)
		if err != nil {
			return nil, nil, err
		}
		f.pids = append(f.pids, pid)
	}
	return &f, o, nil
}

func run(f *flags, o *options, r *result) error {
	t, err := open(f.target, o)
	if err != nil {
		return err
	}
	ctx := context.Background()
	switch f.mode {
	case "leader":
		return leader(ctx, t, r)
	case "ready":
		return ready(ctx, t, f, o, r)
	case "first-read":
		return firstRead(ctx, t, f, o, r)
	case "watch":
		return watch(ctx, t, f, o, r)
	case "failover":
		return failover(ctx, t, f, o, r)
	case "load", "put", "get", "get-local", "mixed", "list":
		return newLoad(t, f, o).run(ctx, r)
	}
	return fmt.Errorf("unknown mode %q", f.mode)
}

func leader(ctx context.Context, t target, r *result) error {
	lead, err := t.leader(ctx)
	if err != nil {
		return err
	}
	r.Extra["leader"] = lead
	term, err := t.term(ctx, lead)
	if errors.Is(err, errUnsupported) {
		return nil
	}
	r.Extra["term"] = term
	return err
}

func newResult(f *flags, o *options) *result {
	return &result{Target: f.target, Mode: f.mode, Clients: f.clients, ValueSize: len(o.fill),
		Errors: map[string]int64{}, Extra: map[string]any{}}
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("kvload: ")
	debug.SetGCPercent(garbagePercent)
	f, o, err := parse()
	if err != nil {
		log.Fatal(err)
	}
	r := newResult(f, o)
	if err := run(f, o, r); err != nil {
		log.Fatalf("%s %s: %v", f.target, f.mode, err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		log.Fatal(err)
	}
	if r.Failed > 0 {
		os.Exit(exitFailed)
	}
}
