package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// load is a closed loop of clients: each makes its next call when the last one is answered. A key
// has at most one put on its way, so that the sequence numbers (the time of the put) tell which
// reads are too old.
type load struct {
	t     target
	f     *flags
	o     *options
	lead  int
	busy  []atomic.Bool
	begun []atomic.Uint64 // newest put of each key
	acked []atomic.Uint64 // newest acknowledged one

	start, end time.Time // of the measured time
	stop       atomic.Bool
	next       atomic.Int64 // load: next key
	gap        gap
}

// gapMin is what is worth mentioning.
const gapMin = 10 * time.Millisecond

// gap is the longest time without an acknowledged put, and all that were not short.
type gap struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration
	all     [][2]time.Time // beginning and end
}

func (g *gap) ack(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := now.Sub(g.last)
	if d <= 0 {
		return
	}
	g.longest = max(g.longest, d)
	if d >= gapMin {
		g.all = append(g.all, [2]time.Time{g.last, now})
	}
	g.last = now
}

// tally is what one client counted.
type tally struct {
	latencies hist
	errs      map[string]int64
}

var (
	errDone  = errors.New("every key is written")
	errNoKey = errors.New("no key left: too many puts failed")
)

const (
	pauseAfterError = 10 * time.Millisecond
	pauseForNext    = 5 * time.Millisecond // failover: before the next node is tried
)

func newLoad(t target, f *flags, o *options) *load {
	return &load{t: t, f: f, o: o, busy: make([]atomic.Bool, f.keys),
		begun: make([]atomic.Uint64, f.keys), acked: make([]atomic.Uint64, f.keys)}
}

func (l *load) run(ctx context.Context, r *result) (err error) {
	if l.lead, err = l.t.leader(ctx); err != nil {
		return err
	}
	l.start = time.Now().Add(l.f.warmup)
	l.end = l.start.Add(l.f.duration)
	l.gap.last = time.Now()
	tallies := make([]tally, l.f.clients)
	var clients sync.WaitGroup
	for i := range tallies {
		tallies[i].errs = map[string]int64{}
		clients.Go(func() { l.client(ctx, i, &tallies[i]) })
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	wait := func(t time.Time) {
		select {
		case <-time.After(time.Until(t)):
		case <-done:
		}
	}
	wait(l.start)
	m, err := startMeter(l.f.pids)
	if err != nil {
		return err
	}
	wait(l.end)
	spent, err := m.stop()
	l.stop.Store(true)
	<-done
	if err != nil {
		return err
	}
	var all hist
	for i := range tallies {
		all.merge(&tallies[i].latencies)
		for message, n := range tallies[i].errs {
			r.fail(message, n)
		}
	}
	r.Latency = all.latency()
	r.account(spent, all.count)
	if l.f.mode == "load" && l.next.Load() < int64(l.f.keys) {
		return fmt.Errorf("%d of %d keys written in %v", l.next.Load(), l.f.keys, l.f.duration)
	}
	return nil
}

// caller is one client; it changes its node only after failures in a failover run.
type caller struct {
	worker
	node, conn int
	random     *rand.Rand
}

func (l *load) newCaller(i int) *caller {
	c := &caller{conn: i % l.f.conns, node: l.lead}
	if l.f.spread == "all" {
		c.node = c.conn % len(l.o.nodes)
	}
	c.worker = l.t.worker(c.node, c.conn)
	c.random = rand.New(rand.NewPCG(uint64(i), uint64(time.Now().UnixNano())))
	return c
}

func (l *load) client(ctx context.Context, i int, y *tally) {
	c := l.newCaller(i)
	for !l.stop.Load() {
		began := time.Now()
		err := l.call(ctx, c)
		now := time.Now()
		switch {
		case errors.Is(err, errDone):
			return
		case errors.Is(err, errUnsupported), errors.Is(err, errNoKey):
			y.errs[err.Error()]++
			return
		case err != nil && l.f.mode == "failover": // as client libraries do: the next node
			y.errs[err.Error()]++
			time.Sleep(pauseForNext)
			c.node = (c.node + 1) % len(l.o.nodes)
			c.worker = l.t.worker(c.node, c.conn)
		case err != nil:
			y.errs[err.Error()]++
			time.Sleep(pauseAfterError)
		case !now.Before(l.start) && !now.After(l.end):
			y.latencies.add(now.Sub(began))
			if l.f.mode == "failover" {
				l.gap.ack(now)
			}
		}
	}
}

func (l *load) call(ctx context.Context, c *caller) error {
	ctx, cancel := context.WithTimeout(ctx, l.f.timeout)
	defer cancel()
	switch mode := l.f.mode; {
	case mode == "load":
		k := int(l.next.Add(1) - 1)
		if k >= l.f.keys {
			return errDone
		}
		return c.put(ctx, k, uint64(time.Now().UnixNano()))
	case mode == "put", mode == "failover",
		mode == "mixed" && c.random.IntN(100) >= l.f.readPercent:
		return l.put(ctx, c)
	case mode == "list":
		k := c.random.IntN(max(l.f.keys/l.f.listed, 1)) * l.f.listed
		return c.list(ctx, k, l.f.listed)
	default:
		return l.get(ctx, c, c.random.IntN(l.f.keys), mode != "get-local")
	}
}

// claim makes a key busy that no other put is on its way to.
func (l *load) claim(random *rand.Rand) (int, bool) {
	for range 100 * l.f.keys {
		k := random.IntN(l.f.keys)
		if l.busy[k].CompareAndSwap(false, true) {
			return k, true
		}
		if l.stop.Load() {
			break
		}
	}
	return 0, false
}

// put writes any key. After a failure the key stays busy: the put may still take effect, and
// nothing can be said of its order.
func (l *load) put(ctx context.Context, c *caller) error {
	k, ok := l.claim(c.random)
	if !ok {
		return errNoKey
	}
	seq := uint64(time.Now().UnixNano())
	l.begun[k].Store(seq)
	if err := c.put(ctx, k, seq); err != nil {
		return err
	}
	l.acked[k].Store(seq)
	l.busy[k].Store(false)
	return nil
}

func (l *load) get(ctx context.Context, w worker, k int, linearizable bool) error {
	oldest := l.acked[k].Load()
	v, err := w.get(ctx, k, linearizable)
	if err != nil {
		return err
	}
	seq, err := check(v, l.o.fill, k)
	if err != nil {
		return err
	}
	if linearizable && seq < oldest {
		return errors.New("wrong value: older than one acknowledged before the read")
	}
	if newest := l.begun[k].Load(); newest != 0 && seq > newest {
		return errors.New("wrong value: newer than any written")
	}
	return nil
}
