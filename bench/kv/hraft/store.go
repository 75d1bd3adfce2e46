package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"sync"

	"github.com/hashicorp/raft"
)

const bufferBytes = 1 << 20

// store is the state machine: a map.
type store struct {
	mu sync.RWMutex
	m  map[string][]byte
}

func encode(key string, data []byte) []byte {
	b := make([]byte, 0, binary.MaxVarintLen64+len(key)+len(data))
	b = binary.AppendUvarint(b, uint64(len(key)))
	return append(append(b, key...), data...)
}

func decode(b []byte) (string, []byte) {
	n, width := binary.Uvarint(b)
	b = b[width:]
	return string(b[:n]), b[n:]
}

func (s *store) get(key string) ([]byte, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, ok := s.m[key]
	return v, ok
}

// Apply is of raft.FSM.
func (s *store) Apply(l *raft.Log) any {
	k, v := decode(l.Data)
	s.mu.Lock()
	s.m[k] = v
	s.mu.Unlock()
	return nil
}

// Snapshot is of raft.FSM.
func (s *store) Snapshot() (raft.FSMSnapshot, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return snapshot(maps.Clone(s.m)), nil
}

// Restore is of raft.FSM.
func (s *store) Restore(from io.ReadCloser) error {
	defer from.Close()
	r := bufio.NewReaderSize(from, bufferBytes)
	m := map[string][]byte{}
	for {
		n, err := binary.ReadUvarint(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		k, v := decode(b)
		m[k] = v
	}
	s.mu.Lock()
	s.m = m
	s.mu.Unlock()
	return nil
}

type snapshot map[string][]byte

// Persist is of raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	w := bufio.NewWriterSize(sink, bufferBytes)
	for k, v := range s {
		b := encode(k, v)
		w.Write(binary.AppendUvarint(nil, uint64(len(b))))
		w.Write(b) // the writer keeps the first error for Flush
	}
	if err := w.Flush(); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release is of raft.FSMSnapshot.
func (s snapshot) Release() {}
