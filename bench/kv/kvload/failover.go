package main

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

const (
	readers      = 32
	electionWait = 30 * time.Second
)

// failover puts while somebody kills nodes: failed puts are expected and counted apart. Then
// it reads every acknowledged key back; those that are lost or wrong are failures.
func failover(ctx context.Context, t target, f *flags, o *options, r *result) error {
	l := newLoad(t, f, o)
	if err := l.run(ctx, r); err != nil {
		return err
	}
	l.gap.ack(l.end) // a gap that never ended counts until the end
	r.Extra["longest_gap_ms"] = float64(l.gap.longest.Microseconds()) / 1e3
	r.Extra["end_unix"] = unix(l.end)
	gaps := [][2]float64{}
	for _, one := range l.gap.all {
		gaps = append(gaps, [2]float64{unix(one[0]), unix(one[1])})
	}
	r.Extra["gaps_unix"] = gaps
	if r.Errors[errNoKey.Error()] > 0 {
		return errNoKey
	}
	r.Extra["failed_puts"] = maps.Clone(r.Errors)
	clear(r.Errors)
	r.Failed = 0
	return l.readBack(ctx, r)
}

func unix(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

func (l *load) readBack(ctx context.Context, r *result) error {
	lead, err := l.t.leader(ctx)
	for end := time.Now().Add(electionWait); err != nil; lead, err = l.t.leader(ctx) {
		if time.Now().After(end) {
			return err
		}
		time.Sleep(pollPause)
	}
	var next, read atomic.Int64
	var lock sync.Mutex
	var all sync.WaitGroup
	for i := range readers {
		all.Go(func() {
			w := l.t.worker(lead, i%l.f.conns)
			for k := next.Add(1) - 1; k < int64(l.f.keys); k = next.Add(1) - 1 {
				if l.acked[k].Load() == 0 {
					continue
				}
				read.Add(1)
				if err := l.readOne(ctx, w, int(k)); err != nil {
					lock.Lock()
					r.fail("read back: "+err.Error(), 1)
					lock.Unlock()
				}
			}
		})
	}
	all.Wait()
	r.Extra["keys_read_back"] = read.Load()
	return nil
}

func (l *load) readOne(ctx context.Context, w worker, k int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return l.get(ctx, w, k, true)
}
