// load KUBECONFIG: storms on one API server, as JSON: list storms, watch storms and writes by 300 clients, and beside them 1,000 watchers
// that hardly read. A probe asks /healthz all the time. What is printed: how slow the probe's answers were, what each kind of client got
// done and how little the least lucky one got, how the slow watchers fared, and the memory of the processes of -pids.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	seconds = flag.Int("secs", 30, "how long the storm lasts")
	clients = flag.Int("clients", 300, "clients of the storm: a third lists, a third watches, a third reads and writes objects")
	slow    = flag.Int("slow", 1000, "watchers that hardly read")
	objects = flag.Int("objects", 1000, "ConfigMaps")
	size    = flag.Int("size", 1000, "bytes of each")
	pids    = flag.String("pids", "", "processes whose memory is summed up, with commas")
)

type server struct {
	url string
	tls *tls.Config
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func open(path string) server {
	text, err := os.ReadFile(path)
	must(err)
	field := func(name string) string {
		found := regexp.MustCompile(name + `["']?: *["']?([^"',}\s]+)`).FindSubmatch(text)
		if found == nil {
			must(fmt.Errorf("%s has no %s", path, name))
		}
		return string(found[1])
	}
	data := func(name string) []byte {
		bytes, err := base64.StdEncoding.DecodeString(field(name))
		must(err)
		return bytes
	}
	pair, err := tls.X509KeyPair(data("client-certificate-data"), data("client-key-data"))
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data("certificate-authority-data"))
	return server{field("server"), &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}}
}

// client has connections of its own. h1: HTTP/1.1; buffer: bytes that it takes in without reading.
func (s server) client(h1 bool, buffer int) *http.Client {
	config := s.tls.Clone()
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: !h1, MaxIdleConnsPerHost: 4}
	if h1 {
		config.NextProtos = []string{"http/1.1"}
	}
	if buffer > 0 {
		transport.ReadBufferSize = 4096
		transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: buffer, MaxReceiveBufferPerConnection: 1 << 20}
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			connection, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if tcp, ok := connection.(*net.TCPConn); ok {
				err = tcp.SetReadBuffer(buffer)
			}
			return connection, err
		}
	}
	return &http.Client{Transport: transport}
}

const maps = "/api/v1/namespaces/load/configmaps"

func (s server) do(ctx context.Context, c *http.Client, method, path string, body []byte) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	must(err)
	request.Header.Set("Content-Type", "application/json")
	answer, err := c.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, text, err
}

// pss and anonymous memory of the processes, in MiB
func memory() (int, int) {
	total, anonymous := 0, 0
	for _, pid := range strings.Split(*pids, ",") {
		text, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(text), "\n") {
			words := strings.Fields(line)
			if len(words) < 2 {
				continue
			}
			kib, _ := strconv.Atoi(words[1])
			switch words[0] {
			case "Pss:":
				total += kib
			case "Pss_Anon:":
				anonymous += kib
			}
		}
	}
	return total >> 10, anonymous >> 10
}

type group struct {
	name    string
	done    []int64
	errors  atomic.Int64
	lock    sync.Mutex
	refused map[string]int
}

func (g *group) fail(code int, err error) {
	g.errors.Add(1)
	g.lock.Lock()
	defer g.lock.Unlock()
	if err != nil {
		g.refused["broken: "+fmt.Sprint(err)[max(0, len(fmt.Sprint(err))-60):]]++
	} else {
		g.refused[strconv.Itoa(code)]++
	}
}

func (g *group) report() map[string]any {
	sort.Slice(g.done, func(a, b int) bool { return g.done[a] < g.done[b] })
	total := int64(0)
	for _, n := range g.done {
		total += n
	}
	return map[string]any{
		"clients": len(g.done), "done": total, "least": g.done[0], "median": g.done[len(g.done)/2], "most": g.done[len(g.done)-1],
		"failed": g.errors.Load(), "failures": g.refused,
	}
}

func main() {
	flag.Parse()
	s := open(flag.Arg(0))
	background := context.Background()
	setup := s.client(false, 0)
	s.do(background, setup, "POST", "/api/v1/namespaces", []byte(`{"metadata":{"name":"load"}}`))
	filling := strings.Repeat("x", *size)
	object := func(n int, stamp int64) []byte {
		return []byte(fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c%d"},"data":{"stamp":"%d","filling":"%s"}}`, n, stamp, filling))
	}
	for n := 0; n < *objects; n++ {
		code, text, err := s.do(background, setup, "POST", maps, object(n, 0))
		if err != nil || (code != 201 && code != 409) {
			must(fmt.Errorf("cannot create: %d %s %v", code, text, err))
		}
	}
	before, beforeAnonymous := memory()

	ctx, stop := context.WithCancel(background)
	var wait sync.WaitGroup
	start := func(f func()) { wait.Add(1); go func() { defer wait.Done(); f() }() }

	// The slow ones: half over HTTP/1.1, half over HTTP/2, a hundred streams a connection. Each reads 256 bytes a second.
	var opened, cut atomic.Int64
	var shared *http.Client
	for n := 0; n < *slow; n++ {
		h1 := n%2 == 0
		client := s.client(true, 4096)
		if !h1 {
			if n%200 == 1 {
				shared = s.client(false, 16<<10)
			}
			client = shared
		}
		start(func() {
			for ctx.Err() == nil {
				request, _ := http.NewRequestWithContext(ctx, "GET", s.url+maps+"?watch=1&resourceVersion=0", nil)
				answer, err := client.Do(request)
				if err != nil {
					time.Sleep(time.Second)
					continue
				}
				opened.Add(1)
				piece := make([]byte, 256)
				for {
					if _, err := io.ReadFull(answer.Body, piece); err != nil {
						break
					}
					select {
					case <-ctx.Done():
					case <-time.After(time.Second):
					}
				}
				answer.Body.Close()
				cut.Add(1)
			}
		})
	}
	for deadline := time.Now().Add(60 * time.Second); opened.Load() < int64(*slow) && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
	slowOpen := opened.Load()

	// The probe, and the memory.
	var times []time.Duration
	late, broken := 0, 0
	start(func() {
		client := s.client(true, 0)
		for ctx.Err() == nil {
			began := time.Now()
			code, _, err := s.do(background, client, "GET", "/healthz", nil)
			took := time.Since(began)
			if err != nil || code != 200 {
				broken++
			}
			if took >= 100*time.Millisecond {
				late++
			}
			times = append(times, took)
			time.Sleep(max(0, 20*time.Millisecond-took))
		}
	})
	peak, peakAnonymous := 0, 0
	start(func() {
		for ctx.Err() == nil {
			total, anonymous := memory()
			peak, peakAnonymous = max(peak, total), max(peakAnonymous, anonymous)
			time.Sleep(200 * time.Millisecond)
		}
	})

	// The storm.
	storm, end := context.WithTimeout(ctx, time.Duration(*seconds)*time.Second)
	defer end()
	third := *clients / 3
	groups := []*group{}
	run := func(name string, count int, step func(client *http.Client, n int) (int, error)) {
		g := &group{name: name, done: make([]int64, count), refused: map[string]int{}}
		groups = append(groups, g)
		for n := 0; n < count; n++ {
			client := s.client(false, 0)
			start(func() {
				for storm.Err() == nil {
					code, err := step(client, n)
					switch {
					case storm.Err() != nil:
					case err != nil || code >= 300:
						g.fail(code, err)
						time.Sleep(50 * time.Millisecond)
					default:
						g.done[n]++
					}
				}
			})
		}
	}
	run("lists", third, func(client *http.Client, n int) (int, error) {
		code, _, err := s.do(storm, client, "GET", maps, nil)
		return code, err
	})
	run("watches", third, func(client *http.Client, n int) (int, error) {
		// Everything there is, then two seconds of changes.
		ctx, end := context.WithTimeout(storm, 20*time.Second)
		defer end()
		request, _ := http.NewRequestWithContext(ctx, "GET", s.url+maps+"?watch=1&timeoutSeconds=2", nil)
		answer, err := client.Do(request)
		if err != nil {
			return 0, err
		}
		defer answer.Body.Close()
		lines := bufio.NewReaderSize(answer.Body, 64<<10)
		for {
			if _, err := lines.ReadSlice('\n'); err == io.EOF {
				return answer.StatusCode, nil
			} else if err != nil && err != bufio.ErrBufferFull {
				return 0, err
			}
		}
	})
	run("objects", *clients-2*third, func(client *http.Client, n int) (int, error) {
		path := fmt.Sprintf("%s/c%d", maps, n%*objects)
		if code, _, err := s.do(storm, client, "GET", path, nil); err != nil || code != 200 {
			return code, err
		}
		code, _, err := s.do(storm, client, "PUT", path, object(n%*objects, time.Now().UnixNano()))
		return code, err
	})
	<-storm.Done()
	stop()
	wait.Wait()
	time.Sleep(3 * time.Second)
	after, _ := memory()

	sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
	at := func(part float64) float64 {
		return float64(times[int(part*float64(len(times)-1))].Microseconds()) / 1000
	}
	result := map[string]any{
		"healthz":    map[string]any{"asked": len(times), "p50_ms": at(.5), "p99_ms": at(.99), "max_ms": at(1), "over_100ms": late, "failed": broken},
		"slow":       map[string]any{"open": slowOpen, "opened": opened.Load(), "cut": cut.Load() - slowOpen},
		"memory_mib": map[string]any{"before": before, "peak": peak, "after": after, "anonymous_before": beforeAnonymous, "anonymous_peak": peakAnonymous},
	}
	for _, g := range groups {
		result[g.name] = g.report()
	}
	text, err := json.Marshal(result)
	must(err)
	fmt.Println(string(text))
}
