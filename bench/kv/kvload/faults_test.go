package main

import (
	"context"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kvbench/wire"
)

// broken is a dfs node of its own with one fault.
type broken struct {
	fault string
	mu    sync.Mutex
	news  *sync.Cond
	m     map[string][]byte
	log   [][]byte // events of all puts
	puts  int
}

func (s *broken) put(_ context.Context, body []byte) ([]byte, error) {
	key, _ := wire.Get(body, 1)
	data, _ := wire.Get(body, 2)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	tenth := s.puts%10 == 0
	if s.fault == "failed put" && tenth {
		return nil, status.Error(codes.Unavailable, "broken")
	}
	if s.fault == "lost put" && tenth {
		return nil, nil
	}
	s.m[string(key.Bytes)] = data.Bytes
	event := wire.Bytes(wire.Bytes(nil, 2, key.Bytes), 6, data.Bytes)
	s.log = append(s.log, wire.String(nil, 2, "kv")) // the directory changes, too
	if s.fault != "lost event" || !tenth {
		s.log = append(s.log, event)
	}
	if s.fault == "event twice" && tenth {
		s.log = append(s.log, event)
	}
	s.news.Broadcast()
	return nil, nil
}

func (s *broken) get(_ context.Context, body []byte) ([]byte, error) {
	key, _ := wire.Get(body, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.m[string(key.Bytes)]
	switch s.fault {
	case "empty value":
		v = nil
	case "changed byte":
		v = slices.Clone(v)
		v[len(v)-1] ^= 1
	case "other key":
		v = s.m["kv/00000001"]
	}
	return wire.Bytes(nil, 1, v), nil
}

func (s *broken) list(body []byte, stream grpc.ServerStream) error {
	after, _ := wire.Get(body, 7)
	limit, _ := wire.Get(body, 6)
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := slices.Sorted(maps.Keys(s.m))
	keys = slices.DeleteFunc(keys, func(k string) bool { return k <= string(after.Bytes) })
	keys = keys[:limit.Value]
	switch s.fault {
	case "short list":
		keys = keys[:len(keys)-1]
	case "long list":
		keys = append(keys, keys[0])
	case "list out of order":
		keys[0], keys[1] = keys[1], keys[0]
	}
	for _, key := range keys {
		value := s.m[key]
		if s.fault == "list without values" {
			value = nil
		}
		item := wire.Bytes(wire.String(nil, 1, key), 3, value)
		answer := wire.Bytes(nil, 1, item)
		if err := stream.SendMsg(&answer); err != nil {
			return err
		}
	}
	return nil
}

func (s *broken) watch(_ []byte, stream grpc.ServerStream) error {
	s.mu.Lock()
	told := len(s.log)
	s.mu.Unlock()
	answer := wire.Varint(nil, 4, 1)
	for {
		if err := stream.SendMsg(&answer); err != nil {
			return err
		}
		s.mu.Lock()
		for told == len(s.log) && stream.Context().Err() == nil {
			s.news.Wait()
		}
		answer = nil
		for ; told < len(s.log); told++ {
			answer = wire.Bytes(answer, 3, s.log[told])
		}
		if s.fault == "gap" {
			answer = wire.Varint(nil, 5, 7)
		}
		s.mu.Unlock()
	}
}

// serve returns the address of a node with this fault.
func serve(t *testing.T, fault string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &broken{fault: fault, m: map[string][]byte{}}
	s.news = sync.NewCond(&s.mu)
	g := grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}))
	g.RegisterService(&grpc.ServiceDesc{ServiceName: "dfs.FileService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{wire.Unary("Put", s.put), wire.Unary("Get", s.get)},
		Streams: []grpc.StreamDesc{
			wire.Streaming("List", s.list), wire.Streaming("Watch", s.watch),
		}}, nil)
	member := wire.Bytes(nil, 1, wire.Varint(nil, 5, 1))
	leader := wire.Bytes(nil, 1, wire.String(nil, 2, "leader"))
	always := func(answer []byte) func(context.Context, []byte) ([]byte, error) {
		return func(context.Context, []byte) ([]byte, error) { return answer, nil }
	}
	g.RegisterService(&grpc.ServiceDesc{ServiceName: "dfs.ClusterService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			wire.Unary("Status", always(leader)), wire.Unary("Members", always(member)),
		}}, nil)
	go g.Serve(listener)
	t.Cleanup(func() {
		g.Stop()
		s.mu.Lock() // a watch that waits notices that its stream is gone
		s.news.Broadcast()
		s.mu.Unlock()
	})
	return listener.Addr().String()
}

// drive loads every key, then runs the mode.
func drive(t *testing.T, fault, mode string) *result {
	t.Helper()
	o := &options{nodes: []string{serve(t, fault)}, prefix: "kv/", fill: filler(100)}
	f := &flags{target: "dfs", clients: 4, conns: 2, keys: 50, listed: 10, watchers: 3, rate: 100,
		duration: 300 * time.Millisecond, timeout: time.Second, spread: "leader", readPercent: 50}
	var r *result
	for _, f.mode = range []string{"load", mode} {
		r = newResult(f, o)
		if err := run(f, o, r); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// Every fault of a store is counted as a failure.
func TestFaultsAreSeen(t *testing.T) {
	for _, one := range []struct{ mode, fault, want string }{
		{"mixed", "lost put", "older than one acknowledged"},
		{"mixed", "failed put", "broken"},
		{"mixed", "empty value", "wrong value: 0 bytes"},
		{"mixed", "changed byte", "changed bytes"},
		{"mixed", "other key", "another key"},
		{"get-local", "changed byte", "changed bytes"},
		{"failover", "lost put", "older than one acknowledged"},
		{"list", "short list", "1 keys are missing"},
		{"list", "long list", "more keys than asked for"},
		{"list", "list out of order", "where kv/"},
		{"list", "list without values", "wrong value: 0 bytes"},
		{"watch", "lost event", "of another put"},
		{"watch", "event twice", "of another put"},
		{"watch", "gap", "has a gap"},
		{"watch", "failed put", "broken"},
	} {
		t.Run(one.mode+" "+one.fault, func(t *testing.T) {
			t.Parallel()
			r := drive(t, one.fault, one.mode)
			for message := range r.Errors {
				if strings.Contains(message, one.want) && r.Failed > 0 {
					return
				}
			}
			t.Fatalf("no failure like %q in %v", one.want, r.Errors)
		})
	}
}

// A sound store has no failures, and something was measured.
func TestSoundStoreHasNoFailures(t *testing.T) {
	for _, mode := range []string{"put", "get", "get-local", "mixed", "list", "watch", "failover"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			r := drive(t, "", mode)
			if r.Failed != 0 || r.Ops == 0 || r.Latency == nil {
				t.Fatalf("%d operations, failures %v", r.Ops, r.Errors)
			}
		})
	}
}

// The gap of a failover run is the time in which no put was acknowledged, to the end of the run.
func TestGap(t *testing.T) {
	from := time.Now()
	g := gap{last: from}
	for _, ms := range []time.Duration{10, 30, 20, 130, 140} {
		g.ack(from.Add(ms * time.Millisecond))
	}
	if want := 100 * time.Millisecond; g.longest != want {
		t.Fatalf("%v, not %v", g.longest, want)
	}
	g.ack(from.Add(time.Second))
	if want := 860 * time.Millisecond; g.longest != want {
		t.Fatalf("%v, not %v", g.longest, want)
	}
	var all []time.Duration
	for _, one := range g.all {
		all = append(all, one[0].Sub(from), one[1].Sub(from))
	}
	ms := time.Millisecond
	if want := []time.Duration{0, 10 * ms, 10 * ms, 30 * ms, 30 * ms, 130 * ms, 130 * ms, 140 * ms,
		140 * ms, time.Second}; !slices.Equal(all, want) {
		t.Fatalf("%v, not %v", all, want)
	}
}
