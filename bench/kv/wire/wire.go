// Package wire is gRPC without generated code: messages travel as the bytes they are encoded in, so
// that the generator spends next to nothing on them.
package wire

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Codec takes and gives *[]byte: an encoded message.
type Codec struct{}

// Name makes a call look like any other to a server.
func (Codec) Name() string { return "proto" }

// Marshal sends the bytes as they are.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

// Unmarshal reuses the slice when it is large enough.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	p := v.(*[]byte)
	n := data.Len()
	if cap(*p) < n {
		*p = make([]byte, n)
	}
	*p = (*p)[:n]
	data.CopyTo(*p)
	return nil
}

// Unary is a method of a server that has the Codec.
func Unary(name string, answer func(context.Context, []byte) ([]byte, error)) grpc.MethodDesc {
	handler := func(_ any, ctx context.Context, decode func(any) error,
		_ grpc.UnaryServerInterceptor) (any, error) {
		var body []byte
		if err := decode(&body); err != nil {
			return nil, err
		}
		out, err := answer(ctx, body)
		return &out, err
	}
	return grpc.MethodDesc{MethodName: name, Handler: handler}
}

// Streaming is a method that answers one message with many.
func Streaming(name string,
	answer func(body []byte, stream grpc.ServerStream) error) grpc.StreamDesc {
	handler := func(_ any, stream grpc.ServerStream) error {
		var body []byte
		if err := stream.RecvMsg(&body); err != nil {
			return err
		}
		return answer(body, stream)
	}
	return grpc.StreamDesc{StreamName: name, Handler: handler, ServerStreams: true}
}

// Bytes appends a length-delimited field.
func Bytes(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// String appends a length-delimited field.
func String(b []byte, num protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// Varint appends a number.
func Varint(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

// Field is one field of a message: Bytes of a length-delimited one, Value of a number.
type Field struct {
	Number protowire.Number
	Bytes  []byte
	Value  uint64
}

// Each calls f with every field of message b until f fails.
func Each(b []byte, f func(Field) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		one := Field{Number: number}
		switch kind {
		case protowire.BytesType:
			one.Bytes, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			one.Value, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(one); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Get returns the last field of a number, as protobuf wants it; the zero Field when there is none.
func Get(b []byte, number protowire.Number) (found Field, err error) {
	err = Each(b, func(one Field) error {
		if one.Number == number {
			found = one
		}
		return nil
	})
	return found, err
}
