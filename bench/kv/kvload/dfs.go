package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"kvbench/wire"
)

// What is used of proto/dfs.proto.
const (
	dfsFiles   = "/dfs.FileService/"
	dfsCluster = "/dfs.ClusterService/"
)

var dfsCalls = calls{
	put:   dfsFiles + "Put",
	get:   dfsFiles + "Get",
	local: wire.Varint(nil, 3, 1), // consistency = LOCAL
	value: func(answer []byte) ([]byte, error) {
		data, err := wire.Get(answer, 1)
		return data.Bytes, err
	},
}

type dfs struct{ grpcTarget }

func (t *dfs) leader(ctx context.Context) (int, error) {
	err := errors.New("no nodes")
	for n := range t.o.nodes {
		var status []byte
		var role wire.Field
		var voters int
		if status, err = t.status(ctx, n); err != nil {
			continue
		}
		if role, err = wire.Get(status, 2); err != nil || string(role.Bytes) != "leader" {
			continue
		}
		if voters, err = t.voters(ctx, n); err != nil {
			continue
		}
		if voters == len(t.o.nodes) {
			return n, nil
		}
		err = fmt.Errorf("%d of %d nodes have a vote", voters, len(t.o.nodes))
	}
	return -1, fmt.Errorf("no leader: %w", err)
}

// status is what a node says of itself, a NodeStatus.
func (t *dfs) status(ctx context.Context, node int) ([]byte, error) {
	answer, err := t.ask(ctx, node, dfsCluster+"Status", wire.Varint(nil, 1, 1)) // local
	if err != nil {
		return nil, err
	}
	status, err := wire.Get(answer, 1)
	return status.Bytes, err
}

func (t *dfs) term(ctx context.Context, node int) (uint64, error) {
	status, err := t.status(ctx, node)
	if err != nil {
		return 0, err
	}
	term, err := wire.Get(status, 3)
	return term.Value, err
}

func (t *dfs) voters(ctx context.Context, node int) (count int, err error) {
	answer, err := t.ask(ctx, node, dfsCluster+"Members", nil)
	if err != nil {
		return 0, err
	}
	err = wire.Each(answer, func(member wire.Field) error {
		if member.Number != 1 {
			return nil
		}
		voter, err := wire.Get(member.Bytes, 5)
		count += int(voter.Value)
		return err
	})
	return count, err
}

func (t *dfs) worker(node, conn int) worker {
	return &dfsWorker{t.grpcTarget.worker(node, conn)}
}

func (t *dfs) directory() string { return strings.TrimSuffix(t.o.prefix, "/") }

func (t *dfs) watch(ctx context.Context, node, conn int, ready func(),
	event func([]byte) error) error {
	body := wire.String(nil, 1, t.directory())
	body = wire.Varint(body, 4, uint64(len(t.o.fill))) // data_bytes_max
	started := false
	return stream(ctx, t.conn(node, conn), dfsFiles+"Watch", body, false, func(a []byte) error {
		if !started { // the first answer says from which revision on
			started = true
			ready()
		}
		return wire.Each(a, func(one wire.Field) error {
			switch one.Number {
			case 3: // events
				key, err := wire.Get(one.Bytes, 2)
				if err != nil || !strings.HasPrefix(string(key.Bytes), t.o.prefix) {
					return err // the directory itself, made with its first file
				}
				data, err := wire.Get(one.Bytes, 6)
				if err != nil {
					return err
				}
				return event(data.Bytes)
			case 5: // gap_floor
				return errors.New("the watch has a gap")
			}
			return nil
		})
	})
}

type dfsWorker struct{ *grpcWorker }

func (w *dfsWorker) list(ctx context.Context, k, count int) error {
	o := w.t.o
	body := wire.String(nil, 1, strings.TrimSuffix(o.prefix, "/"))
	body = wire.Varint(body, 6, uint64(count)) // limit
	if k > 0 {
		body = wire.String(body, 7, keyString(o.prefix, k-1)) // after
	}
	body = wire.Varint(body, 8, uint64(len(o.fill))) // data_bytes_max
	found := listing{o: o, next: k, count: count}
	err := stream(ctx, w.c, dfsFiles+"List", body, false, func(answer []byte) error {
		return wire.Each(answer, func(one wire.Field) error {
			if one.Number != 1 { // items
				return nil
			}
			key, err := wire.Get(one.Bytes, 1)
			if err != nil {
				return err
			}
			data, err := wire.Get(one.Bytes, 3)
			if err != nil {
				return err
			}
			return found.item(key.Bytes, data.Bytes)
		})
	})
	if err != nil {
		return err
	}
	return found.end()
}

// hraft speaks the Put and Get of dfs and nothing else.
type hraft struct{ dfs }

func (t *hraft) leader(ctx context.Context) (int, error) {
	return probeLeader(ctx, t, len(t.o.nodes))
}

func (t *hraft) term(context.Context, int) (uint64, error) { return 0, errUnsupported }

func (t *hraft) worker(node, conn int) worker {
	return &hraftWorker{t.grpcTarget.worker(node, conn)}
}

func (t *hraft) watch(context.Context, int, int, func(), func([]byte) error) error {
	return errUnsupported
}

type hraftWorker struct{ *grpcWorker }

func (*hraftWorker) list(context.Context, int, int) error { return errUnsupported }
