package main

import (
	"context"
	"fmt"
	"time"
)

const pollPause = 5 * time.Millisecond

// ready waits until a leader takes writes and every node has applied the newest one.
func ready(ctx context.Context, t target, f *flags, o *options, r *result) error {
	ctx, cancel := context.WithTimeout(ctx, f.duration)
	defer cancel()
	for {
		lead, err := t.leader(ctx)
		if err == nil {
			if err = appliedEverywhere(ctx, t, o, lead); err == nil {
				r.Extra["leader"] = lead
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready within %v: %w", f.duration, err)
		case <-time.After(10 * pollPause):
		}
	}
}

func appliedEverywhere(ctx context.Context, t target, o *options, lead int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	seq := uint64(time.Now().UnixNano())
	if err := t.worker(lead, probeConn).put(ctx, probeKey, seq); err != nil {
		return err
	}
	for n := range o.nodes {
		w := t.worker(n, probeConn)
		for {
			v, err := w.get(ctx, probeKey, false)
			if err == nil {
				var found uint64
				// Another probe may have come between.
				if found, err = check(v, o.fill, probeKey); err == nil && found >= seq {
					break
				}
			}
			if ctx.Err() != nil {
				return fmt.Errorf("node %d has not applied the newest put (%v)", n, err)
			}
			time.Sleep(pollPause)
		}
	}
	return nil
}

// firstRead asks all nodes for one key until one of them answers a linearizable read.
func firstRead(ctx context.Context, t target, f *flags, o *options, r *result) error {
	ctx, cancel := context.WithTimeout(ctx, f.duration)
	defer cancel()
	type answer struct {
		at  time.Time
		err error
	}
	answers := make(chan answer, len(o.nodes))
	k := f.keys / 2
	for n := range o.nodes {
		go func() {
			w := t.worker(n, 0)
			for ctx.Err() == nil {
				c, cancel := context.WithTimeout(ctx, time.Second)
				v, err := w.get(c, k, true)
				cancel()
				if err == nil {
					_, err = check(v, o.fill, k)
					answers <- answer{time.Now(), err}
					return
				}
				time.Sleep(pollPause)
			}
		}()
	}
	select {
	case first := <-answers:
		r.Extra["first_read_unix"] = float64(first.at.UnixMicro()) / 1e6
		if first.err != nil {
			r.fail(first.err.Error(), 1)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no linearizable read within %v", f.duration)
	}
}
