package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// null answers puts and gets and keeps nothing: a put is answered after a sync of its bytes, which all that wait share. What it does
// not do in a second, no store does on this machine with this client.
type null struct {
	pb.UnimplementedKVServer
	puts  chan waiting
	value []byte
}

type waiting struct {
	bytes []byte
	done  chan error
}

const most = 512

func (n *null) Put(_ context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	put := waiting{r.Value, make(chan error, 1)}
	n.puts <- put
	return &pb.PutResponse{Header: &pb.ResponseHeader{Revision: 1}}, <-put.done
}

func (n *null) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	answer := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 1}, Count: 1}
	for range max(r.Limit, 1) {
		answer.Kvs = append(answer.Kvs, &mvccpb.KeyValue{Key: r.Key, Value: n.value, CreateRevision: 1, ModRevision: 1, Version: 1})
	}
	return answer, nil
}

// write appends what waits to a file that has its length already, syncs once, and answers.
func (n *null) write(f *os.File) {
	const pieces = 32 << 10
	at := int64(0)
	for first := range n.puts {
		batch := []waiting{first}
		for len(batch) < most && len(n.puts) > 0 {
			batch = append(batch, <-n.puts)
		}
		var all []byte
		for _, put := range batch {
			all = append(all, put.bytes...)
		}
		_, err := f.WriteAt(all, at)
		if err == nil {
			err = syscall.Fdatasync(int(f.Fd()))
		}
		if at += int64(len(all)); at > pieces<<10 {
			at = 0
		}
		for _, put := range batch {
			put.done <- err
		}
	}
}

func serveNull(address, dir string) {
	f, err := os.Create(filepath.Join(dir, "null"))
	check(err)
	block := make([]byte, 1<<20)
	for n := range int64(34) {
		_, err = f.WriteAt(block, n<<20)
		check(err)
	}
	check(f.Sync())
	server := grpc.NewServer()
	n := &null{puts: make(chan waiting, most), value: []byte(strings.Repeat("x", *size))}
	go n.write(f)
	pb.RegisterKVServer(server, n)
	listener, err := net.Listen("tcp", address)
	check(err)
	fmt.Fprintln(os.Stderr, "serving", address)
	check(server.Serve(listener))
}
