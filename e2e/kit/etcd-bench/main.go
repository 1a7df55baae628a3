// etcd-bench measures a server of etcd's v3 interface: puts at several numbers of clients, reads, fan-out of watches,
// memory, and bytes on disk after many puts with compaction. It prints one JSON object.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var (
	endpoint = flag.String("endpoint", "127.0.0.1:2379", "host and port")
	pid      = flag.Int("pid", 0, "process id of the server, for its memory and CPU")
	dir      = flag.String("dir", "", "the server's files, for their size")
	secs     = flag.Float64("secs", 4, "seconds of each measurement")
	size     = flag.Int("size", 1024, "bytes of a value")
	bulk     = flag.Int("bulk", 0, "only puts, this many, with compaction every 10,000, to see what stays on disk")
	floor    = flag.String("floor", "", "a directory: only tell how many small writes a second its disk syncs, one after the other")
	serve    = flag.String("serve", "", "host and port: be a server that keeps nothing and only syncs into -dir, for comparison")
	only     = flag.Bool("calls", false, "only puts, gets and lists")
	watchers = flag.Int("watchers", 1000, "watches of the fan-out")
	next     atomic.Int64
)

const keys = 20000

func key(n int64) string { return fmt.Sprintf("/registry/bench/default/object-%06d", n%keys) }

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func connect() *clientv3.Client {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{*endpoint}, DialTimeout: 5 * time.Second})
	check(err)
	return c
}

// run calls op from so many clients for some time; eight clients share a connection, as the parts of an API server do.
func run(clients int, op func(c *clientv3.Client) error) map[string]any {
	conns := make([]*clientv3.Client, (clients+7)/8)
	for i := range conns {
		conns[i] = connect()
		defer conns[i].Close()
		check(op(conns[i]))
	}
	var wg sync.WaitGroup
	times := make([][]time.Duration, clients)
	before, mine, start := cpu(), ownCPU(), time.Now()
	end := start.Add(time.Duration(*secs * float64(time.Second)))
	for i := range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for t := time.Now(); t.Before(end); {
				check(op(conns[i/8]))
				now := time.Now()
				times[i] = append(times[i], now.Sub(t))
				t = now
			}
		}()
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	var all []time.Duration
	for _, t := range times {
		all = append(all, t...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	at := func(p float64) float64 {
		return float64(all[min(int(float64(len(all))*p), len(all)-1)].Microseconds()) / 1000
	}
	n := float64(len(all))
	return map[string]any{"per_second": int(n / took), "p50_ms": at(.5), "p99_ms": at(.99), "server_cpu_us_each": int((cpu() - before) / n * 1e6), "client_cpu_us_each": int((ownCPU() - mine) / n * 1e6)}
}

// ownCPU is this client's CPU time in seconds.
func ownCPU() float64 {
	var used syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}

// cpu is the server's CPU time in seconds.
func cpu() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", *pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100
}

func pssMiB() int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", *pid))
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "Pss:") {
			kib, _ := strconv.Atoi(strings.Fields(line)[1])
			return kib / 1024
		}
	}
	return 0
}

func diskMiB() int64 {
	var sum int64
	filepath.Walk(*dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			sum += info.Size()
		}
		return nil
	})
	return sum >> 20
}

// writtenMiB is what the server has caused to be written to the disk.
func writtenMiB() int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", *pid))
	for _, line := range strings.Split(string(text), "\n") {
		if n, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			bytes, _ := strconv.ParseInt(n, 10, 64)
			return bytes >> 20
		}
	}
	return 0
}

func fanOut(value string) map[string]any {
	const changes = 200
	c := connect()
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	var last atomic.Int64
	for i := range *watchers {
		if i%100 == 0 {
			c = connect()
			defer c.Close()
		}
		ready := c.Watch(ctx, "/fan/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		<-ready
		wg.Add(1)
		go func() {
			defer wg.Done()
			for seen := 0; seen < changes; {
				answer, ok := <-ready
				if !ok || answer.Err() != nil {
					check(fmt.Errorf("a watch ended after %d of %d events: %v", seen, changes, answer.Err()))
				}
				seen += len(answer.Events)
			}
			last.Store(time.Now().UnixNano())
		}()
	}
	before, mine, start := cpu(), ownCPU(), time.Now()
	for n := range changes {
		_, err := c.Put(ctx, fmt.Sprintf("/fan/%d", n), value)
		check(err)
	}
	wg.Wait()
	took := float64(last.Load()-start.UnixNano()) / 1e9
	n := float64(changes * *watchers)
	return map[string]any{"events_per_second": int(n / took), "server_cpu_us_each": (cpu() - before) / n * 1e6, "client_cpu_us_each": (ownCPU() - mine) / n * 1e6}
}

func main() {
	flag.Parse()
	value := strings.Repeat("x", *size)
	ctx := context.Background()
	result := map[string]any{}
	put := func(c *clientv3.Client) error {
		_, err := c.Put(ctx, key(next.Add(1)), value)
		return err
	}
	if *floor != "" {
		result["syncs"] = syncs(*floor)
		report(result)
		return
	}
	if *serve != "" {
		serveNull(*serve, *dir)
	}
	if *bulk > 0 {
		result["bulk"] = bulkPuts(ctx, value)
		report(result)
		return
	}
	for _, clients := range []int{1, 8, 64, 256} {
		result[fmt.Sprintf("put_%d", clients)] = run(clients, put)
	}
	get := func(c *clientv3.Client) error {
		_, err := c.Get(ctx, key(next.Add(7919)))
		return err
	}
	result["get_64"] = run(64, get)
	list := func(c *clientv3.Client) error {
		_, err := c.Get(ctx, key(next.Add(100)/1000*1000), clientv3.WithRange("/registry/bench/default/p"), clientv3.WithLimit(100))
		return err
	}
	result["list100_8"] = run(8, list)
	if *only {
		report(result)
		return
	}
	result["memory_mib"] = pssMiB()
	result["fan_out"] = fanOut(value)
	result["memory_watching_mib"] = pssMiB()
	report(result)
}

// syncs writes 8 KiB after 8 KiB into a file that has its length already, and syncs each: what one client that waits for
// each of its puts cannot outdo on this disk, whatever the server.
func syncs(dir string) map[string]any {
	const piece, pieces = 8 << 10, 4096
	f, err := os.CreateTemp(dir, "syncs")
	check(err)
	defer os.Remove(f.Name())
	block := make([]byte, piece)
	for n := range int64(pieces) {
		_, err = f.WriteAt(block, n*piece)
		check(err)
	}
	check(f.Sync())
	for i := range block {
		block[i] = byte(i*7 + i>>8)
	}
	n, start := int64(0), time.Now()
	for time.Since(start).Seconds() < *secs {
		_, err = f.WriteAt(block, n%pieces*piece)
		check(err)
		check(syscall.Fdatasync(int(f.Fd())))
		n++
	}
	check(f.Close())
	return map[string]any{"per_second": int(float64(n) / time.Since(start).Seconds())}
}

func report(result map[string]any) {
	text, err := json.Marshal(result)
	check(err)
	fmt.Println(string(text))
}

// bulkPuts writes from 64 clients, compacts every 10,000 puts to 10,000 revisions back, and looks at the disk all the while.
func bulkPuts(ctx context.Context, value string) map[string]any {
	c := connect()
	defer c.Close()
	var wg sync.WaitGroup
	var done, most atomic.Int64
	look := func() {
		if now := diskMiB(); now > most.Load() {
			most.Store(now)
		}
	}
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(time.Second):
				look()
			}
		}
	}()
	start := time.Now()
	for range 64 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := done.Add(1); n <= int64(*bulk); n = done.Add(1) {
				r, err := c.Put(ctx, key(n), value)
				check(err)
				if n%10000 == 0 && r.Header.Revision > 10000 {
					// Another client may have compacted further.
					_, _ = c.Compact(ctx, r.Header.Revision-10000)
				}
			}
		}()
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	// kine compacts on its own every ten seconds: everyone gets the time for one more round.
	time.Sleep(15 * time.Second)
	close(ended)
	look()
	return map[string]any{"puts": *bulk, "per_second": int(float64(*bulk) / took), "disk_mib": diskMiB(), "disk_most_mib": most.Load(), "written_mib": writtenMiB()}
}
