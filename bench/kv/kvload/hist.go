package main

import (
	"math/bits"
	"time"
)

const bucketsPerPower = 64 // of two: values are at most 1.6 % off

// hist is a histogram of nanoseconds whose buckets widen with the values.
type hist struct {
	n     [(64 - 5) * bucketsPerPower]uint64
	count uint64
	max   uint64
}

func (h *hist) add(d time.Duration) {
	v := uint64(max(d, 0))
	h.n[bucket(v)]++
	h.count++
	h.max = max(h.max, v)
}

func bucket(v uint64) int {
	if v < 2*bucketsPerPower {
		return int(v)
	}
	e := bits.Len64(v) - 7
	return e*bucketsPerPower + int(v>>e)
}

// upper is the largest value of a bucket.
func upper(i int) uint64 {
	if i < 2*bucketsPerPower {
		return uint64(i)
	}
	e := i/bucketsPerPower - 1
	return uint64(i-e*bucketsPerPower+1)<<e - 1
}

func (h *hist) merge(o *hist) {
	for i, c := range o.n {
		h.n[i] += c
	}
	h.count += o.count
	h.max = max(h.max, o.max)
}

func (h *hist) quantile(q float64) uint64 {
	want := max(uint64(q*float64(h.count)+0.5), 1)
	var seen uint64
	for i, c := range h.n {
		if seen += c; seen >= want {
			return min(upper(i), h.max)
		}
	}
	return h.max
}

type latency struct {
	P50MS float64 `json:"p50_ms"`
	P99MS float64 `json:"p99_ms"`
	MaxMS float64 `json:"max_ms"`
}

// latency is nil when nothing was counted.
func (h *hist) latency() *latency {
	if h.count == 0 {
		return nil
	}
	ms := func(v uint64) float64 { return float64(v) / 1e6 }
	return &latency{ms(h.quantile(.5)), ms(h.quantile(.99)), ms(h.max)}
}
