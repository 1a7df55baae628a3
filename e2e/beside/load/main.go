// load KUBECONFIG: storms on one API server, as JSON: list storms, watch storms and writes by 300 clients, and beside them 1,000 watchers
// that hardly read. The clients are thirty service accounts, so that flow control sees what it would see of workloads. Printed: what each
// kind of client got done and how little the least lucky one got, how late watchers hear of writes, how the slow watchers fared, and the
// memory of the processes of -pids.
//
// load -probe KUBECONFIG, in a process of its own: asks for the server's health, without credentials as a balancer does, on one kept
// connection and on new ones by turns, until a line comes on standard input. Prints how slow the answers were.
package main

import (
	"bufio"
	"bytes"
	"context"
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
	"sync"
	"sync/atomic"
	"time"

	"beside/server"
)

var (
	seconds = flag.Int("secs", 30, "how long the storm lasts")
	clients = flag.Int("clients", 300, "clients of the storm: a third lists, a third watches, a third reads and writes objects")
	slow    = flag.Int("slow", 1000, "watchers that hardly read")
	objects = flag.Int("objects", 1000, "ConfigMaps")
	size    = flag.Int("size", 1000, "bytes of each")
	pids    = flag.String("pids", "", "processes whose memory is summed up, with commas")
	probe   = flag.Bool("probe", false, "ask for the server's health until standard input says something")
)

type target struct{ server.Server }

// client has connections of its own. h1: HTTP/1.1; buffer: bytes that it takes in without reading.
func (s target) client(h1 bool, buffer int) *http.Client {
	config := s.TLS.Clone()
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

var stamp = regexp.MustCompile(`"stamp":"([0-9]+)"`)

const maps = "/api/v1/namespaces/load/configmaps"

// account is a client's connections and token; without one it is the kubeconfig's user.
type account struct {
	*http.Client
	token string
}

func (a account) send(request *http.Request) (*http.Response, error) {
	if a.token != "" {
		request.Header.Set("Authorization", "Bearer "+a.token)
	}
	return a.Do(request)
}

// token makes a service account that may do everything with ConfigMaps, and a token of it.
func (s target) token(setup account, name string) string {
	s.do(context.Background(), setup, "POST", "/api/v1/namespaces/load/serviceaccounts", []byte(`{"metadata":{"name":"`+name+`"}}`))
	code, text, err := s.do(context.Background(), setup, "POST", "/api/v1/namespaces/load/serviceaccounts/"+name+"/token",
		[]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":3600}}`))
	var answer struct{ Status struct{ Token string } }
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	if err != nil || answer.Status.Token == "" {
		server.Must(fmt.Errorf("cannot make a token: %d %s %v", code, text, err))
	}
	return answer.Status.Token
}

// cut is how many watchers the server has cut off because they were slow. They learn of it when they have read what was sent before, which
// for those that hardly read is never.
func (s target) cut(setup account) int {
	_, text, err := s.do(context.Background(), setup, "GET", "/metrics", nil)
	server.Must(err)
	total := 0.0
	for _, found := range regexp.MustCompile(`(?m)^apiserver_terminated_watchers_total\{[^}]*\} (\S+)$`).FindAllSubmatch(text, -1) {
		n, _ := strconv.ParseFloat(string(found[1]), 64)
		total += n
	}
	return int(total)
}

// quantile of sorted durations, in milliseconds
func quantile(times []time.Duration, part float64) float64 {
	if len(times) == 0 {
		return 0
	}
	return float64(times[int(part*float64(len(times)-1))].Microseconds()) / 1000
}

func ask(s target) {
	s = target{s.Anonymous()}
	end := make(chan struct{})
	go func() { bufio.NewReader(os.Stdin).ReadString('\n'); close(end) }()
	kept := s.client(true, 0)
	var times []time.Duration
	late, broken := 0, 0
	for n := 0; ; n++ {
		select {
		case <-end:
			sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
			text, err := json.Marshal(map[string]any{"asked": len(times), "p50_ms": quantile(times, .5), "p99_ms": quantile(times, .99),
				"p999_ms": quantile(times, .999), "max_ms": quantile(times, 1), "over_100ms": late, "failed": broken})
			server.Must(err)
			fmt.Println(string(text))
			return
		default:
		}
		c := kept
		if n%2 == 1 {
			c = s.client(n%4 == 1, 0)
		}
		began := time.Now()
		code, _, err := s.do(context.Background(), account{c, ""}, "GET", []string{"/healthz", "/livez", "/readyz"}[n%3], nil)
		took := time.Since(began)
		if c != kept {
			c.CloseIdleConnections()
		}
		if err != nil || code != 200 {
			broken++
		}
		if took >= 100*time.Millisecond {
			late++
		}
		times = append(times, took)
		time.Sleep(max(0, 20*time.Millisecond-took))
	}
}

func (s target) do(ctx context.Context, c account, method, path string, body []byte) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, s.URL+path, bytes.NewReader(body))
	server.Must(err)
	request.Header.Set("Content-Type", "application/json")
	answer, err := c.send(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, text, err
}

type group struct {
	name    string
	done    []int64
	times   []time.Duration // of the answers
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

func (g *group) took(time time.Duration) {
	g.lock.Lock()
	defer g.lock.Unlock()
	g.times = append(g.times, time)
}

func (g *group) report(seconds int) map[string]any {
	sort.Slice(g.times, func(a, b int) bool { return g.times[a] < g.times[b] })
	starved := 0
	for _, n := range g.done {
		if n == 0 {
			starved++
		}
	}
	sort.Slice(g.done, func(a, b int) bool { return g.done[a] < g.done[b] })
	total := int64(0)
	for _, n := range g.done {
		total += n
	}
	return map[string]any{
		"clients": len(g.done), "done": total, "least": g.done[0], "median": g.done[len(g.done)/2], "most": g.done[len(g.done)-1],
		"failed": g.errors.Load(), "failures": g.refused, "starved": starved, "per_second": float64(total) / float64(seconds),
		"p50_ms": quantile(g.times, .5), "p99_ms": quantile(g.times, .99),
	}
}

func main() {
	flag.Parse()
	s := target{server.Open(flag.Arg(0))}
	background := context.Background()
	if *probe {
		ask(s)
		return
	}
	setup := account{s.client(false, 0), ""}
	s.do(background, setup, "POST", "/api/v1/namespaces", []byte(`{"metadata":{"name":"load"}}`))
	s.do(background, setup, "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/load/roles",
		[]byte(`{"metadata":{"name":"load"},"rules":[{"apiGroups":[""],"resources":["configmaps"],"verbs":["*"]}]}`))
	s.do(background, setup, "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/load/rolebindings",
		[]byte(`{"metadata":{"name":"load"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"load"},`+
			`"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"Group","name":"system:serviceaccounts:load"}]}`))
	slowToken := s.token(setup, "slow")
	// Like real ones: not all the same, and not without repetition.
	filling := func(n int) string {
		text := ""
		for part := uint64(n) + 1; len(text) < *size; part = part*6364136223846793005 + 1442695040888963407 {
			text += fmt.Sprintf("setting-%x: %d, ", part>>48, part>>56)
		}
		return text[:*size]
	}
	object := func(n int, stamp int64) []byte {
		return []byte(fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c%d"},"data":{"stamp":"%d","filling":"%s"}}`, n, stamp, filling(n)))
	}
	for n := 0; n < *objects; n++ {
		code, text, err := s.do(background, setup, "POST", maps, object(n, 0))
		if err != nil || (code != 201 && code != 409) {
			server.Must(fmt.Errorf("cannot create: %d %s %v", code, text, err))
		}
	}
	before, beforeAnonymous := server.Memory(*pids)

	ctx, stop := context.WithCancel(background)
	var wait sync.WaitGroup
	start := func(f func()) { wait.Add(1); go func() { defer wait.Done(); f() }() }

	// The slow ones: half over HTTP/1.1, half over HTTP/2, a hundred streams a connection. Each reads 256 bytes a second.
	var opened, refused atomic.Int64
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
				request, _ := http.NewRequestWithContext(ctx, "GET", s.URL+maps+"?watch=1&resourceVersion=0", nil)
				answer, err := account{client, slowToken}.send(request)
				if err != nil {
					time.Sleep(time.Second)
					continue
				}
				if answer.StatusCode != 200 {
					answer.Body.Close()
					refused.Add(1)
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
			}
		})
	}
	for deadline := time.Now().Add(60 * time.Second); opened.Load() < int64(*slow) && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
	slowOpen, cutBefore := opened.Load(), s.cut(setup)

	peak, peakAnonymous := 0, 0
	start(func() {
		for ctx.Err() == nil {
			total, anonymous := server.Memory(*pids)
			peak, peakAnonymous = max(peak, total), max(peakAnonymous, anonymous)
			time.Sleep(200 * time.Millisecond)
		}
	})

	// The storm. Its clients begin together when all have their tokens.
	storm, end := context.WithCancel(ctx)
	defer end()
	var starts []func()
	var lags []time.Duration
	var lagLock sync.Mutex
	third := *clients / 3
	groups := []*group{}
	run := func(name string, count int, step func(client account, n int) (int, error)) {
		g := &group{name: name, done: make([]int64, count), refused: map[string]int{}}
		groups = append(groups, g)
		var tokens []string
		for n := 0; n < 10; n++ {
			tokens = append(tokens, s.token(setup, fmt.Sprintf("%s-%d", name, n)))
		}
		for n := 0; n < count; n++ {
			client := account{s.client(false, 0), tokens[n%len(tokens)]}
			starts = append(starts, func() {
				for storm.Err() == nil {
					began := time.Now()
					code, err := step(client, n)
					g.took(time.Since(began))
					switch {
					case storm.Err() != nil:
					case err == nil && code == 429:
						// As client-go does: the server said when to come again.
						g.fail(code, err)
						time.Sleep(time.Second)
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
	run("lists", third, func(client account, n int) (int, error) {
		code, _, err := s.do(storm, client, "GET", maps, nil)
		return code, err
	})
	run("watches", third, func(client account, n int) (int, error) {
		// Everything there is, then two seconds of changes.
		ctx, end := context.WithTimeout(storm, 20*time.Second)
		defer end()
		request, _ := http.NewRequestWithContext(ctx, "GET", s.URL+maps+"?watch=1&timeoutSeconds=2", nil)
		answer, err := client.send(request)
		if err != nil {
			return 0, err
		}
		defer answer.Body.Close()
		lines := bufio.NewReaderSize(answer.Body, 64<<10)
		for {
			line, err := lines.ReadSlice('\n')
			if err == io.EOF {
				return answer.StatusCode, nil
			} else if err != nil && err != bufio.ErrBufferFull {
				return 0, err
			}
			if found := stamp.FindSubmatch(line); found != nil && bytes.HasPrefix(line, []byte(`{"type":"MODIFIED"`)) {
				written, _ := strconv.ParseInt(string(found[1]), 10, 64)
				lagLock.Lock()
				lags = append(lags, time.Since(time.Unix(0, written)))
				lagLock.Unlock()
			}
		}
	})
	run("objects", *clients-2*third, func(client account, n int) (int, error) {
		path := fmt.Sprintf("%s/c%d", maps, n%*objects)
		if code, _, err := s.do(storm, client, "GET", path, nil); err != nil || code != 200 {
			return code, err
		}
		code, _, err := s.do(storm, client, "PUT", path, object(n%*objects, time.Now().UnixNano()))
		return code, err
	})
	for _, client := range starts {
		start(client)
	}
	time.Sleep(time.Duration(*seconds) * time.Second)
	end()
	stop()
	wait.Wait()
	time.Sleep(3 * time.Second)
	after, _ := server.Memory(*pids)

	sort.Slice(lags, func(a, b int) bool { return lags[a] < lags[b] })
	result := map[string]any{
		"lag":        map[string]any{"events": len(lags), "p50_ms": quantile(lags, .5), "p99_ms": quantile(lags, .99), "max_ms": quantile(lags, 1)},
		"slow":       map[string]any{"open": slowOpen, "opened": opened.Load(), "cut": s.cut(setup) - cutBefore, "refused": refused.Load()},
		"memory_mib": map[string]any{"before": before, "peak": peak, "after": after, "anonymous_before": beforeAnonymous, "anonymous_peak": peakAnonymous},
	}
	for _, g := range groups {
		result[g.name] = g.report(*seconds)
	}
	text, err := json.Marshal(result)
	server.Must(err)
	fmt.Println(string(text))
}
