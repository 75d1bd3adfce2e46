package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

const tickUS = 1e4 // of /proc/PID/stat, whose clock has 100 ticks a second

// usage is what processes have used since they started.
type usage struct {
	cpuUS float64 // user + system
	rss   int64   // bytes, now
}

func sample(pid int) (u usage, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// Behind the name, which may hold anything, the fields are numbers.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	pages, _ := strconv.ParseInt(f[21], 10, 64)
	return usage{(user + system) * tickUS, pages * int64(os.Getpagesize())}, nil
}

func sampleAll(pids []int) (sum usage, err error) {
	for _, pid := range pids {
		u, err := sample(pid)
		if err != nil {
			return sum, err
		}
		sum.cpuUS += u.cpuUS
		sum.rss += u.rss
	}
	return sum, nil
}
