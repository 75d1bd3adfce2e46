package main

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kvbench/wire"
)

// What is used of etcd's rpc.proto and kv.proto.
const (
	etcdRange       = "/etcdserverpb.KV/Range"
	etcdKeyValueKey = 1
	etcdKeyValue    = 5
)

var etcdCalls = calls{
	put:   "/etcdserverpb.KV/Put",
	get:   etcdRange,
	local: wire.Varint(nil, 7, 1), // serializable
	value: func(answer []byte) ([]byte, error) {
		found, err := wire.Get(answer, 2) // kvs
		if err != nil {
			return nil, err
		}
		if found.Bytes == nil {
			return nil, status.Error(codes.NotFound, "no such key")
		}
		value, err := wire.Get(found.Bytes, etcdKeyValue)
		return value.Bytes, err
	},
}

type etcd struct{ grpcTarget }

func (t *etcd) leader(ctx context.Context) (int, error) {
	err := errors.New("no node says that it leads")
	for n := range t.o.nodes {
		answer, failed := t.ask(ctx, n, "/etcdserverpb.Maintenance/Status", nil)
		if failed != nil {
			err = failed
			continue
		}
		header, _ := wire.Get(answer, 1)
		self, _ := wire.Get(header.Bytes, 2) // member_id
		leader, _ := wire.Get(answer, 4)
		if leader.Value != 0 && leader.Value == self.Value {
			return n, nil
		}
	}
	return -1, fmt.Errorf("no leader: %w", err)
}

func (t *etcd) term(ctx context.Context, node int) (uint64, error) {
	answer, err := t.ask(ctx, node, "/etcdserverpb.Maintenance/Status", nil)
	if err != nil {
		return 0, err
	}
	term, err := wire.Get(answer, 6) // raftTerm
	return term.Value, err
}

func (t *etcd) worker(node, conn int) worker {
	return &etcdWorker{t.grpcTarget.worker(node, conn)}
}

// behind is the first key that is larger than all with this prefix.
func behind(prefix string) string {
	last := len(prefix) - 1
	return prefix[:last] + string(prefix[last]+1)
}

func (t *etcd) watch(ctx context.Context, node, conn int, ready func(),
	event func([]byte) error) error {
	create := wire.String(nil, 1, t.o.prefix)
	create = wire.String(create, 2, behind(t.o.prefix)) // range_end
	body := wire.Bytes(nil, 1, create)
	return stream(ctx, t.conn(node, conn), "/etcdserverpb.Watch/Watch", body, true,
		func(answer []byte) error {
			return wire.Each(answer, func(one wire.Field) error {
				switch one.Number {
				case 3: // created
					if one.Value == 1 {
						ready()
					}
				case 4: // canceled
					if one.Value == 1 {
						return errors.New("the server canceled the watch")
					}
				case 11: // events
					found, _ := wire.Get(one.Bytes, 2)
					value, err := wire.Get(found.Bytes, etcdKeyValue)
					if err != nil {
						return err
					}
					return event(value.Bytes)
				}
				return nil
			})
		})
}

type etcdWorker struct{ *grpcWorker }

func (w *etcdWorker) list(ctx context.Context, k, count int) error {
	o := w.t.o
	body := wire.String(nil, 1, keyString(o.prefix, k))
	body = wire.String(body, 2, keyString(o.prefix, k+count)) // range_end
	if err := w.c.Invoke(ctx, etcdRange, &body, &w.answer); err != nil {
		return err
	}
	found := listing{o: o, next: k, count: count}
	err := wire.Each(w.answer, func(one wire.Field) error {
		if one.Number != 2 { // kvs
			return nil
		}
		key, err := wire.Get(one.Bytes, etcdKeyValueKey)
		if err != nil {
			return err
		}
		value, err := wire.Get(one.Bytes, etcdKeyValue)
		if err != nil {
			return err
		}
		return found.item(key.Bytes, value.Bytes)
	})
	if err != nil {
		return err
	}
	return found.end()
}
