package main

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"kvbench/wire"
)

const messageBytesMax = 64 << 20

// calls is what the API of a system has its own way. In all, a put is {key = 1, value = 2}, and
// the request of a get begins with {key = 1}.
type calls struct {
	put, get string
	// local has the further fields of a get that is not linearizable.
	local []byte
	value func(answer []byte) ([]byte, error)
}

// grpcTarget has the connections and the plain calls.
type grpcTarget struct {
	o     *options
	calls calls

	mu    sync.Mutex
	conns map[[2]int]*grpc.ClientConn
}

const probeConn = -1 // a connection of its own for questions beside the load

// conn returns connection number i to node, which it makes on first use.
func (t *grpcTarget) conn(node, i int) *grpc.ClientConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns == nil {
		t.conns = map[[2]int]*grpc.ClientConn{}
	}
	c := t.conns[[2]int{node, i}]
	if c == nil {
		// A node that comes back is found at once.
		pause := backoff.Config{
			BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 100 * time.Millisecond,
		}
		var err error
		c, err = grpc.NewClient("passthrough:///"+t.o.nodes[node],
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: pause, MinConnectTimeout: time.Second,
			}),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{}),
				grpc.MaxCallRecvMsgSize(messageBytesMax), grpc.MaxCallSendMsgSize(messageBytesMax)))
		if err != nil {
			panic(err) // a bad address
		}
		t.conns[[2]int{node, i}] = c
	}
	return c
}

// ask makes one call beside the load.
func (t *grpcTarget) ask(ctx context.Context, node int, method string,
	body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var answer []byte
	err := t.conn(node, probeConn).Invoke(ctx, method, &body, &answer)
	return answer, err
}

// stream sends one message and calls f with each answer until the stream ends or f fails. Only
// what the server ends in order is no error.
func stream(ctx context.Context, c *grpc.ClientConn, method string, body []byte, keepOpen bool,
	f func(answer []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kind := grpc.StreamDesc{ServerStreams: true, ClientStreams: keepOpen}
	s, err := c.NewStream(ctx, &kind, method)
	if err != nil {
		return err
	}
	if err := s.SendMsg(&body); err != nil {
		return err
	}
	if !keepOpen {
		if err := s.CloseSend(); err != nil {
			return err
		}
	}
	var answer []byte
	for {
		if err := s.RecvMsg(&answer); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := f(answer); err != nil {
			return err
		}
	}
}

func (t *grpcTarget) worker(node, conn int) *grpcWorker {
	w := &grpcWorker{t: t, c: t.conn(node, conn)}
	w.freshPut()
	w.freshGets()
	return w
}

// grpcWorker keeps the requests of a client encoded and only changes the digits of the key and the
// head of the value.
type grpcWorker struct {
	t                   *grpcTarget
	c                   *grpc.ClientConn
	putBody, answer     []byte
	getBody, getLocal   []byte
	numberAt, contentAt int
}

func (w *grpcWorker) withKey() []byte {
	b := wire.String(nil, 1, keyString(w.t.o.prefix, 0))
	w.numberAt = len(b) - keyDigits
	return b
}

// freshPut makes a new request: gRPC may still hold the old one after a failure.
func (w *grpcWorker) freshPut() {
	w.putBody = wire.Bytes(w.withKey(), 2, w.t.o.fill)
	w.contentAt = len(w.putBody) - len(w.t.o.fill)
}

func (w *grpcWorker) freshGets() {
	w.getBody = w.withKey()
	w.getLocal = append(w.withKey(), w.t.calls.local...)
}

func (w *grpcWorker) put(ctx context.Context, k int, seq uint64) error {
	putNumber(w.putBody[w.numberAt:], k)
	setHead(w.putBody[w.contentAt:], k, seq)
	err := w.c.Invoke(ctx, w.t.calls.put, &w.putBody, &w.answer)
	if err != nil {
		w.freshPut()
	}
	return err
}

func (w *grpcWorker) get(ctx context.Context, k int, linearizable bool) ([]byte, error) {
	body := &w.getLocal
	if linearizable {
		body = &w.getBody
	}
	putNumber((*body)[w.numberAt:], k)
	if err := w.c.Invoke(ctx, w.t.calls.get, body, &w.answer); err != nil {
		w.freshGets()
		return nil, err
	}
	return w.t.calls.value(w.answer)
}
