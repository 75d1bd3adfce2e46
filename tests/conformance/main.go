// Calls a node with grpc-go as other programs do and checks what comes back. It knows the messages
// by their field numbers, so it needs no generated code. Prints one line for each check; the exit
// code is 1 when one fails.
//
//	conformance HOST:PORT [CA.pem]
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	patience   = 20 * time.Second
	service    = "/dfs.FileService/"
	valueBytes = 16 << 20
	concurrent = 1_000
)

// raw passes encoded messages through.
type raw struct{}

func (raw) Name() string                        { return "proto" }
func (raw) Marshal(v any) ([]byte, error)       { return *v.(*[]byte), nil }
func (raw) Unmarshal(bytes []byte, v any) error { *v.(*[]byte) = bytes; return nil }

func text(message []byte, field protowire.Number, value []byte) []byte {
	message = protowire.AppendTag(message, field, protowire.BytesType)
	return protowire.AppendBytes(message, value)
}

func number(message []byte, field protowire.Number, value uint64) []byte {
	message = protowire.AppendTag(message, field, protowire.VarintType)
	return protowire.AppendVarint(message, value)
}

// fields splits a message; of a repeated field all values are kept.
func fields(message []byte) map[protowire.Number][][]byte {
	found := map[protowire.Number][][]byte{}
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		message = message[n:]
		n = protowire.ConsumeFieldValue(field, kind, message)
		value := message[:n]
		if kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(value)
		}
		found[field] = append(found[field], value)
		message = message[n:]
	}
	return found
}

func putRequest(key string, data []byte) []byte {
	return text(text(nil, 1, []byte(key)), 2, data)
}

func getRequest(key string) []byte { return text(nil, 1, []byte(key)) }

type node struct {
	connection *grpc.ClientConn
}

func (n node) call(ctx context.Context, method string, request []byte, o ...grpc.CallOption) ([]byte, error) {
	var answer []byte
	o = append(o, grpc.ForceCodec(raw{}))
	err := n.connection.Invoke(ctx, service+method, &request, &answer, o...)
	return answer, err
}

func (n node) put(ctx context.Context, key string, data []byte, o ...grpc.CallOption) error {
	_, err := n.call(ctx, "Put", putRequest(key, data), o...)
	return err
}

func (n node) same(ctx context.Context, key string, data []byte, o ...grpc.CallOption) error {
	answer, err := n.call(ctx, "Get", getRequest(key), o...)
	if err != nil {
		return err
	}
	got := fields(answer)[1]
	if len(got) != 1 || !bytes.Equal(got[0], data) {
		return fmt.Errorf("%s holds something else", key)
	}
	return nil
}

func (n node) stream(ctx context.Context, method string, request []byte) (grpc.ClientStream, error) {
	description := &grpc.StreamDesc{ServerStreams: true}
	stream, err := n.connection.NewStream(ctx, description, service+method, grpc.ForceCodec(raw{}))
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(&request); err != nil {
		return nil, err
	}
	return stream, stream.CloseSend()
}

func expect(err error, code codes.Code) error {
	if status.Code(err) != code {
		return fmt.Errorf("%v instead of %v", err, code)
	}
	return nil
}

// ---- the checks ---------------------------------------------------------------------------------

func unary(ctx context.Context, n node) error {
	if err := n.put(ctx, "go/unary", []byte("value")); err != nil {
		return err
	}
	return n.same(ctx, "go/unary", []byte("value"))
}

func large(ctx context.Context, n node) error {
	data := bytes.Repeat([]byte("0123456789abcdef"), valueBytes/16)
	if err := n.put(ctx, "go/large", data); err != nil {
		return err
	}
	if err := n.same(ctx, "go/large", data); err != nil {
		return err
	}
	return expect(n.put(ctx, "go/larger", append(data, 0)), codes.ResourceExhausted)
}

func compressed(ctx context.Context, n node) error {
	data := bytes.Repeat([]byte("zip"), 1<<20)
	if err := n.put(ctx, "go/gzip", data, grpc.UseCompressor(gzip.Name)); err != nil {
		return err
	}
	return n.same(ctx, "go/gzip", data, grpc.UseCompressor(gzip.Name))
}

func metadataAround(ctx context.Context, n node) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "x-text", "anything", "x-data-bin", "\x00\xff")
	var header, trailer metadata.MD
	if err := n.put(ctx, "go/meta", nil, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		return err
	}
	if kind := header.Get("content-type"); len(kind) != 1 || kind[0] != "application/grpc" {
		return fmt.Errorf("content-type %v", kind)
	}
	if len(trailer) != 0 {
		return fmt.Errorf("trailers %v", trailer)
	}
	return nil
}

func details(ctx context.Context, n node) error {
	_, err := n.call(ctx, "Get", getRequest("go//bad"))
	if err := expect(err, codes.InvalidArgument); err != nil {
		return err
	}
	found := status.Convert(err)
	for _, detail := range found.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "dfs" {
			return nil
		}
	}
	return fmt.Errorf("no ErrorInfo in %v", found.Details())
}

func deadline(ctx context.Context, n node) error {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	future := number(getRequest("go/unary"), 4, 1<<40) // no such revision for a long time
	_, err := n.call(ctx, "Get", future)
	if took := time.Since(began); took > 2*time.Second {
		return fmt.Errorf("after %v", took)
	}
	return expect(err, codes.DeadlineExceeded)
}

func unknown(ctx context.Context, n node) error {
	_, err := n.call(ctx, "Nothing", nil)
	return expect(err, codes.Unimplemented)
}

func streams(ctx context.Context, n node) error {
	for i := range 5 {
		if err := n.put(ctx, fmt.Sprintf("go/list/%d", i), nil); err != nil {
			return err
		}
	}
	list, err := n.stream(ctx, "List", text(nil, 1, []byte("go/list")))
	if err != nil {
		return err
	}
	items := 0
	for {
		var part []byte
		if err := list.RecvMsg(&part); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		items += len(fields(part)[1])
	}
	if items != 5 {
		return fmt.Errorf("%d items", items)
	}
	return nil
}

func watch(ctx context.Context, n node) error {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := n.stream(ctx, "Watch", text(nil, 1, []byte("go/watch")))
	if err != nil {
		return err
	}
	var part []byte
	if err := stream.RecvMsg(&part); err != nil {
		return err
	}
	if err := n.put(ctx, "go/watch/k", []byte("v")); err != nil {
		return err
	}
	for len(fields(part)[3]) == 0 {
		if err := stream.RecvMsg(&part); err != nil {
			return err
		}
	}
	cancel()
	for err == nil {
		err = stream.RecvMsg(&part)
	}
	return expect(err, codes.Canceled)
}

func many(ctx context.Context, n node) error {
	failed := make(chan error, 2*concurrent)
	var group, open sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	open.Add(concurrent)
	for range concurrent {
		group.Go(func() {
			stream, err := n.stream(ctx, "Watch", text(nil, 1, []byte("go/many")))
			var part []byte
			if err == nil {
				err = stream.RecvMsg(&part)
			}
			open.Done()
			for err == nil && len(fields(part)[3]) == 0 {
				err = stream.RecvMsg(&part)
			}
			failed <- err
		})
	}
	open.Wait()
	if err := n.put(ctx, "go/many/k", nil); err != nil {
		return err
	}
	group.Wait()
	for i := range concurrent {
		group.Go(func() {
			data := []byte(fmt.Sprint(i))
			err := n.put(ctx, fmt.Sprintf("go/several/%d", i%50), data)
			failed <- err
		})
	}
	group.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

func health(ctx context.Context, n node) error {
	client := grpc_health_v1.NewHealthClient(n.connection)
	answer, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("%v", answer.Status)
	}
	return nil
}

// oneConnection: all that went before was served on one connection, so none of it was cut.
func oneConnection(first string) func(context.Context, node) error {
	return func(ctx context.Context, n node) error {
		address, err := local(ctx, n)
		if err == nil && address != first {
			err = fmt.Errorf("first %s, now %s", first, address)
		}
		return err
	}
}

func local(ctx context.Context, n node) (string, error) {
	var end peer.Peer
	if err := n.put(ctx, "go/peer", nil, grpc.Peer(&end)); err != nil {
		return "", err
	}
	return end.LocalAddr.String(), nil
}

func run(arguments []string) error {
	security := insecure.NewCredentials()
	if len(arguments) > 1 {
		var err error
		if security, err = credentials.NewClientTLSFromFile(arguments[1], ""); err != nil {
			return err
		}
	}
	connection, err := grpc.NewClient(arguments[0],
		grpc.WithTransportCredentials(security),
		grpc.WithDisableRetry(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(2*valueBytes), grpc.MaxCallSendMsgSize(2*valueBytes)),
	)
	if err != nil {
		return err
	}
	defer connection.Close()
	n := node{connection}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	first, err := local(ctx, n)
	if err != nil {
		return err
	}
	checks := []struct {
		name string
		work func(context.Context, node) error
	}{
		{"unary", unary}, {"large", large}, {"gzip", compressed}, {"metadata", metadataAround},
		{"details", details}, {"deadline", deadline}, {"unknown method", unknown},
		{"list", streams}, {"watch and cancel", watch}, {"1,000 streams", many},
		{"health", health}, {"one connection", oneConnection(first)},
	}
	failed := 0
	for _, check := range checks {
		began := time.Now()
		if err := check.work(ctx, n); err != nil {
			failed++
			fmt.Printf("FAILED %s: %v\n", check.name, err)
			continue
		}
		fmt.Printf("ok %s %d ms\n", check.name, time.Since(began).Milliseconds())
	}
	if failed > 0 {
		return fmt.Errorf("%d checks failed", failed)
	}
	return nil
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: conformance HOST:PORT [CA.pem]")
		os.Exit(2)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
