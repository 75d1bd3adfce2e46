package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// target is one system under test.
type target interface {
	// leader returns the index of the node that takes writes, once every node has a vote.
	leader(ctx context.Context) (int, error)
	// term returns the term of a node: each election makes it larger.
	term(ctx context.Context, node int) (uint64, error)
	// worker returns a client on connection conn to node. Only one goroutine uses it.
	worker(node, conn int) worker
	// watch streams the changes of all keys: ready is called once it is established, event with
	// each new value. It returns when ctx ends, the stream breaks or event fails.
	watch(ctx context.Context, node, conn int, ready func(), event func(value []byte) error) error
}

type worker interface {
	put(ctx context.Context, k int, seq uint64) error
	// get returns a value that is valid until the next call. A linearizable read sees every put
	// acknowledged before it began, any other what the node has.
	get(ctx context.Context, k int, linearizable bool) ([]byte, error)
	// list reads count keys with their values, from key k on, and checks them.
	list(ctx context.Context, k, count int) error
}

// options say where the system is and what its keys and values look like.
type options struct {
	nodes  []string
	prefix string // ends with a slash
	fill   []byte
}

var errUnsupported = errors.New("this system has no such call")

func open(kind string, o *options) (target, error) {
	switch kind {
	case "dfs":
		return &dfs{grpcTarget{o: o, calls: dfsCalls}}, nil
	case "hraft":
		return &hraft{dfs{grpcTarget{o: o, calls: dfsCalls}}}, nil
	case "etcd":
		return &etcd{grpcTarget{o: o, calls: etcdCalls}}, nil
	}
	return nil, fmt.Errorf("unknown target %q", kind)
}

const probeKey = 99_999_999 // outside the numbers of any load

// probeLeader returns the first node that acknowledges a put.
func probeLeader(ctx context.Context, t target, nodes int) (int, error) {
	err := errors.New("no nodes")
	for n := range nodes {
		c, cancel := context.WithTimeout(ctx, 2*time.Second)
		err = t.worker(n, probeConn).put(c, probeKey, 0)
		cancel()
		if err == nil {
			return n, nil
		}
	}
	return -1, fmt.Errorf("no node takes a put: %w", err)
}
