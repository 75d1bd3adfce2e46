package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const lastEventsWait = 5 * time.Second

// fanOut follows each put to all watchers. The sequence number of a value is the number of its put;
// puts come one behind the other, so each watcher must get all of them in this order.
type fanOut struct {
	o        *options
	keys     int
	watchers int
	puts     []onWay
	lock     sync.Mutex
	delays   hist // from the call of a put until the last watcher has it
	seen     atomic.Int64
	ended    atomic.Int64 // watchers whose stream broke
}

type onWay struct {
	began, last atomic.Int64 // nanoseconds since 1970
	seen        atomic.Int64
}

// event takes what a watcher got where put number `due` has to come.
func (a *fanOut) event(value []byte, due int) error {
	now := time.Now().UnixNano()
	if len(value) == len(a.o.fill) && binary.LittleEndian.Uint64(value[8:]) != uint64(due) {
		return errors.New("wrong event: of another put (a watcher missed one or got one twice)")
	}
	if due >= len(a.puts) || a.puts[due].began.Load() == 0 {
		return errors.New("wrong event: no put is due")
	}
	if _, err := check(value, a.o.fill, due%a.keys); err != nil {
		return err
	}
	put := &a.puts[due]
	for old := put.last.Load(); old < now && !put.last.CompareAndSwap(old, now); {
		old = put.last.Load()
	}
	if put.seen.Add(1) == int64(a.watchers) {
		a.lock.Lock()
		a.delays.add(time.Duration(put.last.Load() - put.began.Load()))
		a.lock.Unlock()
	}
	a.seen.Add(1)
	return nil
}

// wait returns when all events have come, or none will any more.
func (a *fanOut) wait(want int64) {
	end := time.Now().Add(lastEventsWait)
	for a.seen.Load() < want && a.ended.Load() < int64(a.watchers) && time.Now().Before(end) {
		time.Sleep(time.Millisecond)
	}
}

// watch puts at a steady rate while watchers follow.
func watch(ctx context.Context, t target, f *flags, o *options, r *result) error {
	lead, err := t.leader(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	count := max(int(f.rate*f.duration.Seconds()), 1)
	a := &fanOut{o: o, keys: f.keys, watchers: f.watchers, puts: make([]onWay, count)}
	var lock sync.Mutex
	fail := func(message string, n int64) {
		lock.Lock()
		defer lock.Unlock()
		r.fail(message, n)
	}
	var ready, over sync.WaitGroup
	for i := range f.watchers {
		ready.Add(1)
		over.Go(func() { watchOne(ctx, t, f, a, lead, i, ready.Done, fail) })
	}
	ready.Wait()
	m, err := startMeter(f.pids)
	if err != nil {
		return err
	}
	a.putAll(ctx, t.worker(lead, probeConn), f, fail)
	want := int64(count) * int64(f.watchers)
	a.wait(want)
	spent, err := m.stop()
	if err != nil {
		return err
	}
	if missing := want - a.seen.Load(); missing > 0 {
		fail("an event is missing or wrong", missing)
	}
	cancel()
	over.Wait()
	r.Latency = a.delays.latency()
	r.account(spent, uint64(a.seen.Load()))
	return nil
}

func watchOne(ctx context.Context, t target, f *flags, a *fanOut, lead, i int, ready func(),
	fail func(string, int64)) {
	var once sync.Once
	conn := i % f.conns
	node := lead
	if f.spread == "all" {
		node = conn % len(a.o.nodes)
	}
	due := 0
	err := t.watch(ctx, node, conn, func() { once.Do(ready) }, func(value []byte) error {
		err := a.event(value, due)
		due++
		return err
	})
	a.ended.Add(1)
	once.Do(ready)
	if ctx.Err() == nil {
		fail(fmt.Sprintf("watch: %v", err), 1)
	}
}

// putAll makes the puts, each at its time or, when one took too long, right behind it.
func (a *fanOut) putAll(ctx context.Context, w worker, f *flags, fail func(string, int64)) {
	from := time.Now()
	for i := range a.puts {
		time.Sleep(time.Until(from.Add(time.Duration(float64(i) / f.rate * float64(time.Second)))))
		a.puts[i].began.Store(time.Now().UnixNano())
		c, cancel := context.WithTimeout(ctx, f.timeout)
		if err := w.put(c, i%a.keys, uint64(i)); err != nil {
			fail("put: "+err.Error(), 1)
		}
		cancel()
	}
}
