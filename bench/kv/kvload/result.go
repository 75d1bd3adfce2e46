package main

import (
	"os"
	"time"
)

// result is printed as one JSON object.
type result struct {
	Target    string  `json:"target"`
	Mode      string  `json:"mode"`
	Clients   int     `json:"clients"`
	ValueSize int     `json:"value_bytes"`
	Seconds   float64 `json:"seconds"`
	Ops       uint64  `json:"ops"`
	OpsPerS   float64 `json:"ops_per_s"`
	// Of all operations; watch: from the call of a put until the last watcher has it.
	Latency *latency `json:"latency,omitempty"`
	// User and system time of all servers, their resident memory at the end.
	ServerUS  float64 `json:"server_us_per_op"`
	ServerMiB float64 `json:"server_rss_mib"`
	// The same of this process.
	GeneratorUS float64 `json:"generator_us_per_op"`
	// Wrong answers and errors, by message.
	Errors map[string]int64 `json:"errors,omitempty"`
	Failed int64            `json:"failed"`
	Extra  map[string]any   `json:"extra,omitempty"`
}

func (r *result) fail(message string, n int64) {
	const most = 160
	r.Errors[message[:min(len(message), most)]] += n
	r.Failed += n
}

// meter measures what a stretch of time costs.
type meter struct {
	pids            []int
	from            time.Time
	servers, myself usage
}

func startMeter(pids []int) (m meter, err error) {
	m.pids = pids
	if m.servers, err = sampleAll(pids); err != nil {
		return m, err
	}
	m.myself, err = sample(os.Getpid())
	m.from = time.Now()
	return m, err
}

// cost is of all operations together.
type cost struct {
	seconds, serverUS, generatorUS, serverMiB float64
}

func (m *meter) stop() (c cost, err error) {
	c.seconds = time.Since(m.from).Seconds()
	myself, err := sample(os.Getpid())
	if err != nil {
		return c, err
	}
	servers, err := sampleAll(m.pids)
	c.serverUS = servers.cpuUS - m.servers.cpuUS
	c.serverMiB = float64(servers.rss) / (1 << 20)
	c.generatorUS = myself.cpuUS - m.myself.cpuUS
	return c, err
}

func (r *result) account(c cost, ops uint64) {
	n := float64(max(ops, 1))
	r.Seconds, r.Ops, r.OpsPerS = c.seconds, ops, float64(ops)/c.seconds
	r.ServerUS, r.GeneratorUS, r.ServerMiB = c.serverUS/n, c.generatorUS/n, c.serverMiB
}
