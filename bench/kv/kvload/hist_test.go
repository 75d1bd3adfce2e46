package main

import (
	"testing"
	"time"
)

func TestBucketsHoldTheirValuesAndAreNarrow(t *testing.T) {
	for v := uint64(1); v < 1<<40; v = v*9/8 + 1 {
		i := bucket(v)
		if u := upper(i); u < v || float64(u) > float64(v)*1.02+1 {
			t.Fatalf("value %d: bucket %d ends at %d", v, i, u)
		}
		if upper(i-1) >= v {
			t.Fatalf("value %d: bucket %d starts behind it", v, i)
		}
	}
}

func TestQuantiles(t *testing.T) {
	var h hist
	for i := 1; i <= 1000; i++ {
		h.add(time.Duration(i) * time.Millisecond)
	}
	l := h.latency()
	if l.P50MS < 495 || l.P50MS > 510 || l.P99MS < 985 || l.P99MS > 1000 || l.MaxMS != 1000 {
		t.Fatalf("%+v", *l)
	}
}
