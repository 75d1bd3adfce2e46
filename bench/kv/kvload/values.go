package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

const keyDigits = 8 // of the key's number, behind the prefix

func putNumber(b []byte, k int) {
	for i := keyDigits - 1; i >= 0; i-- {
		b[i] = byte('0' + k%10)
		k /= 10
	}
}

func keyString(prefix string, k int) string {
	b := make([]byte, keyDigits)
	putNumber(b, k)
	return prefix + string(b)
}

// headBytes begin a value: the number of its key, and a sequence number. The rest is the same in
// all values of a size.
const headBytes = 16

// filler makes a value of bytes that do not compress.
func filler(size int) []byte {
	b := make([]byte, max(size, headBytes))
	x := uint64(0x9e3779b97f4a7c15)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

func setHead(v []byte, k int, seq uint64) {
	binary.LittleEndian.PutUint64(v, uint64(k))
	binary.LittleEndian.PutUint64(v[8:], seq)
}

// check compares a whole value with what key k may have, and returns its sequence number.
func check(v, fill []byte, k int) (uint64, error) {
	if len(v) != len(fill) {
		return 0, fmt.Errorf("wrong value: %d bytes, not %d", len(v), len(fill))
	}
	if binary.LittleEndian.Uint64(v) != uint64(k) {
		return 0, errors.New("wrong value: of another key")
	}
	if !bytes.Equal(v[headBytes:], fill[headBytes:]) {
		return 0, errors.New("wrong value: changed bytes")
	}
	return binary.LittleEndian.Uint64(v[8:]), nil
}

// listing checks the answer of a list: `count` keys from number `next` on, in order, each whole.
type listing struct {
	o     *options
	next  int
	count int
}

func (l *listing) item(key, value []byte) error {
	if l.count == 0 {
		return errors.New("wrong list: more keys than asked for")
	}
	if want := keyString(l.o.prefix, l.next); string(key) != want {
		return fmt.Errorf("wrong list: %.60s where %s belongs", key, want)
	}
	if _, err := check(value, l.o.fill, l.next); err != nil {
		return err
	}
	l.next++
	l.count--
	return nil
}

func (l *listing) end() error {
	if l.count > 0 {
		return fmt.Errorf("wrong list: %d keys are missing", l.count)
	}
	return nil
}
