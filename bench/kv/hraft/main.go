// hraft is a replicated map on hashicorp/raft behind the Put and Get of dfs.FileService: what a
// small Go store makes of this library and raft-wal, with their defaults and Consul's log cache.
// Put works on the leader only, and so does Get unless its consistency is LOCAL.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kvbench/wire"
)

const (
	messageBytesMax = 64 << 20
	logCacheEntries = 512 // as Consul has
	snapshotsKept   = 2
	peerConnections = 3
	peerTimeout     = 10 * time.Second
	applyTimeout    = 10 * time.Second
	local           = 1 // dfs.Consistency
)

type server struct {
	raft  *raft.Raft
	store *store
	ready atomic.Bool // this leader has applied all entries of earlier terms
}

func fail(err error) error {
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return status.Error(codes.Unavailable, err.Error())
}

func (s *server) put(_ context.Context, body []byte) ([]byte, error) {
	key, err := wire.Get(body, 1)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	data, err := wire.Get(body, 2)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	done := s.raft.Apply(encode(string(key.Bytes), data.Bytes), applyTimeout)
	if err := done.Error(); err != nil {
		return nil, fail(err)
	}
	return wire.Varint(nil, 1, done.Index()), nil
}

func (s *server) get(_ context.Context, body []byte) ([]byte, error) {
	key, err := wire.Get(body, 1)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	consistency, err := wire.Get(body, 3)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if consistency.Value != local {
		if !s.ready.Load() {
			return nil, fail(raft.ErrNotLeader)
		}
		if err := s.raft.VerifyLeader().Error(); err != nil {
			return nil, fail(err)
		}
	}
	data, ok := s.store.get(string(key.Bytes))
	if !ok {
		return nil, status.Error(codes.NotFound, "no such key")
	}
	return wire.Bytes(nil, 1, data), nil
}

func (s *server) watchLeader() {
	for leads := range s.raft.LeaderCh() {
		s.ready.Store(leads && s.raft.Barrier(0).Error() == nil)
	}
}

// openRaft starts the member whose address is bind; a new cluster has the peers as its members.
func openRaft(st *store, id, bind, data string, peers []string) (*raft.Raft, error) {
	logger := hclog.New(&hclog.LoggerOptions{Name: id, Level: hclog.Warn})
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(bind)
	conf.Logger = logger
	folder := filepath.Join(data, "wal")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	wal, err := raftwal.Open(folder, raftwal.WithLogger(logger))
	if err != nil {
		return nil, err
	}
	cache, err := raft.NewLogCache(logCacheEntries, wal)
	if err != nil {
		return nil, err
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(data, snapshotsKept, logger)
	if err != nil {
		return nil, err
	}
	transport, err := raft.NewTCPTransportWithLogger(bind, nil, peerConnections, peerTimeout, logger)
	if err != nil {
		return nil, err
	}
	old, err := raft.HasExistingState(cache, wal, snapshots)
	if err != nil {
		return nil, err
	}
	r, err := raft.NewRaft(conf, st, cache, wal, snapshots, transport)
	if err != nil || old {
		return r, err
	}
	var members raft.Configuration
	for _, peer := range peers {
		members.Servers = append(members.Servers,
			raft.Server{ID: raft.ServerID(peer), Address: raft.ServerAddress(peer)})
	}
	return r, r.BootstrapCluster(members).Error()
}

func run() error {
	id := flag.String("id", "node1", "name of the node, for the log")
	bind := flag.String("raft", ":12000", "address for the other nodes")
	rpc := flag.String("grpc", ":13000", "address for callers")
	data := flag.String("data", "data", "data directory")
	peers := flag.String("peers", "", "comma-separated -raft addresses of all nodes")
	flag.Parse()
	log.SetPrefix(*id + " ")
	st := &store{m: map[string][]byte{}}
	r, err := openRaft(st, *id, *bind, *data, strings.Split(*peers, ","))
	if err != nil {
		return err
	}
	s := &server{raft: r, store: st}
	go s.watchLeader()
	listener, err := net.Listen("tcp", *rpc)
	if err != nil {
		return err
	}
	g := grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}),
		grpc.MaxRecvMsgSize(messageBytesMax), grpc.MaxSendMsgSize(messageBytesMax))
	g.RegisterService(&grpc.ServiceDesc{ServiceName: "dfs.FileService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{wire.Unary("Put", s.put), wire.Unary("Get", s.get)}}, nil)
	return g.Serve(listener)
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
