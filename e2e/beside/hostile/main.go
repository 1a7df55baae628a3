// hostile KUBECONFIG: what clients without manners do to an API server, one kind after the other: connections that say nothing or half a
// handshake, heads and bodies that come a byte at a time, idle connections, floods of pings, settings, resets and endless headers, answers
// that nobody takes. Beside each kind somebody asks for the server's health, and somebody lists ConfigMaps. Prints, as JSON by kind, how long
// those two waited at most, and the memory (PSS, in MiB) of the processes of -pids before, at the most and after it.
package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"beside/server"
)

var (
	seconds = flag.Int("secs", 10, "how long each kind lasts")
	many    = flag.Int("many", 2000, "connections of kinds that hold many")
	idle    = flag.Int("idle", 8000, "idle connections")
	pids    = flag.String("pids", "", "processes whose memory is summed up, with commas")
	only    = flag.String("only", "", "the only kind")
)

type target struct {
	address string
	config  *tls.Config
}

func (t target) dial(protocol string, known bool) (*tls.Conn, error) {
	plain, err := net.DialTimeout("tcp", t.address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	config := t.config.Clone()
	config.NextProtos = []string{protocol}
	if !known {
		config.Certificates = nil
	}
	secured := tls.Client(plain, config)
	secured.SetDeadline(time.Now().Add(20 * time.Second))
	if err := secured.Handshake(); err != nil {
		plain.Close()
		return nil, err
	}
	secured.SetDeadline(time.Time{})
	return secured, nil
}

func memory() int {
	total, _ := server.Memory(*pids)
	return total
}

// frame of HTTP/2
func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	out := make([]byte, 9, 9+len(payload))
	binary.BigEndian.PutUint32(out, uint32(len(payload))<<8|uint32(kind))
	out[4] = flags
	binary.BigEndian.PutUint32(out[5:], stream)
	return append(out, payload...)
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// ask is the header block of a GET.
func ask(path string) []byte {
	block := []byte{0x82, 0x87, 0x04, byte(len(path))}
	block = append(block, path...)
	return append(append(block, 0x01, 9), "localhost"...)
}

const list = "/api/v1/configmaps"

// hold runs many of one kind, each with a connection of its own, until the end.
func hold(ctx context.Context, count int, each func(ctx context.Context) error) (held, ended int64) {
	var wait sync.WaitGroup
	var begun, over atomic.Int64
	limit := make(chan struct{}, 64)
	for n := 0; n < count && ctx.Err() == nil; n++ {
		limit <- struct{}{}
		wait.Add(1)
		go func() {
			defer wait.Done()
			begun.Add(1)
			first := sync.OnceFunc(func() { <-limit })
			timer := time.AfterFunc(300*time.Millisecond, first)
			err := each(ctx)
			timer.Stop()
			first()
			if err != nil && ctx.Err() == nil {
				over.Add(1)
			}
		}()
	}
	wait.Wait()
	return begun.Load(), over.Load()
}

// dribble sends a byte now and then.
func dribble(ctx context.Context, to io.Writer, text string) error {
	for at := 0; ctx.Err() == nil; at++ {
		if _, err := to.Write([]byte{text[at%len(text)]}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
	return nil
}

func until(ctx context.Context, connection net.Conn) {
	go func() { <-ctx.Done(); connection.Close() }()
}

// flood opens connections of HTTP/2 and writes what `next` gives as fast as the server takes it, reading nothing or everything.
func (t target) flood(ctx context.Context, count int, reads bool, known bool, settings []byte, next func(n uint32) []byte) (int64, int64) {
	return hold(ctx, count, func(ctx context.Context) error {
		for ctx.Err() == nil {
			connection, err := t.dial("h2", known)
			if err != nil {
				time.Sleep(50 * time.Millisecond)
				continue
			}
			until(ctx, connection)
			if reads {
				go io.Copy(io.Discard, connection)
			}
			if _, err := connection.Write(append([]byte(preface), frame(4, 0, 0, settings)...)); err != nil {
				connection.Close()
				continue
			}
			for n := uint32(0); ctx.Err() == nil; n++ {
				connection.SetWriteDeadline(time.Now().Add(20 * time.Second))
				if _, err := connection.Write(next(n)); err != nil {
					break
				}
			}
			connection.Close()
		}
		return nil
	})
}

func main() {
	flag.Parse()
	s := server.Open(flag.Arg(0))
	s.TLS.ServerName = "localhost"
	t := target{s.Address(), s.TLS}
	zero := []byte{0, 4, 0, 0, 0, 0} // SETTINGS_INITIAL_WINDOW_SIZE: nothing may be sent
	kinds := []struct {
		name string
		run  func(ctx context.Context) (int64, int64)
	}{
		{"nothing", func(ctx context.Context) (int64, int64) { return 0, 0 }},
		{"connections that say nothing", func(ctx context.Context) (int64, int64) {
			return hold(ctx, *many, func(ctx context.Context) error {
				connection, err := net.DialTimeout("tcp", t.address, 10*time.Second)
				if err != nil {
					return err
				}
				until(ctx, connection)
				_, err = connection.Read(make([]byte, 1))
				return err
			})
		}},
		{"half handshakes", func(ctx context.Context) (int64, int64) {
			return hold(ctx, *many, func(ctx context.Context) error {
				connection, err := net.DialTimeout("tcp", t.address, 10*time.Second)
				if err != nil {
					return err
				}
				until(ctx, connection)
				return dribble(ctx, connection, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"+strings.Repeat("x", 400))
			})
		}},
		{"heads by the byte", func(ctx context.Context) (int64, int64) {
			return hold(ctx, *many, func(ctx context.Context) error {
				connection, err := t.dial("http/1.1", false)
				if err != nil {
					return err
				}
				until(ctx, connection)
				if _, err := io.WriteString(connection, "GET /api HTTP/1.1\r\nHost: localhost\r\n"); err != nil {
					return err
				}
				return dribble(ctx, connection, "X-A: b\r\n")
			})
		}},
		{"bodies by the byte", func(ctx context.Context) (int64, int64) {
			return hold(ctx, *many/2, func(ctx context.Context) error {
				connection, err := t.dial("http/1.1", true)
				if err != nil {
					return err
				}
				until(ctx, connection)
				head := "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
				if _, err := io.WriteString(connection, head); err != nil {
					return err
				}
				return dribble(ctx, connection, "{\"a\": \"")
			})
		}},
		{"idle connections", func(ctx context.Context) (int64, int64) {
			return hold(ctx, *idle, func(ctx context.Context) error {
				connection, err := t.dial("h2", false)
				if err != nil {
					return err
				}
				until(ctx, connection)
				if _, err := connection.Write(append([]byte(preface), frame(4, 0, 0, nil)...)); err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, connection)
				return err
			})
		}},
		{"pings", func(ctx context.Context) (int64, int64) {
			piece := []byte(strings.Repeat(string(frame(6, 0, 0, make([]byte, 8))), 500))
			return t.flood(ctx, 50, false, false, nil, func(uint32) []byte { return piece })
		}},
		{"settings", func(ctx context.Context) (int64, int64) {
			piece := []byte(strings.Repeat(string(frame(4, 0, 0, []byte{0, 4, 0, 1, 0, 0})), 500))
			return t.flood(ctx, 50, false, false, nil, func(uint32) []byte { return piece })
		}},
		{"resets", func(ctx context.Context) (int64, int64) {
			return t.flood(ctx, 50, true, true, nil, func(n uint32) []byte {
				var out []byte
				for i := uint32(0); i < 50; i++ {
					stream := 2*(50*n+i) + 1
					out = append(out, frame(1, 5, stream, ask(list))...)
					out = append(out, frame(3, 0, stream, []byte{0, 0, 0, 8})...)
				}
				return out
			})
		}},
		{"endless headers", func(ctx context.Context) (int64, int64) {
			piece := []byte(strings.Repeat("\x00\x05x-abc\x7f\x01"+strings.Repeat("y", 128), 115))
			return t.flood(ctx, 50, true, false, nil, func(n uint32) []byte {
				if n == 0 {
					return frame(1, 1, 1, ask(list))
				}
				return frame(9, 0, 1, piece)
			})
		}},
		{"answers that nobody takes", func(ctx context.Context) (int64, int64) {
			return t.flood(ctx, 20, false, true, zero, func(n uint32) []byte {
				if n < 100 {
					return frame(1, 5, 2*n+1, ask(list))
				}
				time.Sleep(100 * time.Millisecond)
				return nil
			})
		}},
	}
	results := []map[string]any{}
	for _, kind := range kinds {
		if *only != "" && kind.name != *only {
			continue
		}
		before, peak := memory(), 0
		ctx, end := context.WithTimeout(context.Background(), time.Duration(*seconds)*time.Second)
		var wait sync.WaitGroup
		ask := func(path string, known bool, worst *time.Duration, asked, failed *int) {
			defer wait.Done()
			config := t.config.Clone()
			if !known {
				config.Certificates = nil
			}
			for ctx.Err() == nil {
				client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
				began := time.Now()
				answer, err := client.Get("https://" + t.address + path)
				if err == nil {
					_, err = io.Copy(io.Discard, answer.Body)
					answer.Body.Close()
				}
				if took := time.Since(began); ctx.Err() == nil || err == nil {
					*worst = max(*worst, took)
					*asked++
					if err != nil || answer.StatusCode != 200 {
						*failed++
					}
				}
				client.CloseIdleConnections()
				time.Sleep(20 * time.Millisecond)
			}
		}
		var health, lists time.Duration
		var healthAsked, healthFailed, listAsked, listFailed int
		wait.Add(3)
		go ask("/readyz", false, &health, &healthAsked, &healthFailed)
		go ask(list+"?limit=10", true, &lists, &listAsked, &listFailed)
		go func() {
			defer wait.Done()
			for ctx.Err() == nil {
				peak = max(peak, memory())
				time.Sleep(200 * time.Millisecond)
			}
		}()
		held, ended := kind.run(ctx)
		<-ctx.Done()
		end()
		wait.Wait()
		time.Sleep(2 * time.Second)
		results = append(results, map[string]any{"kind": kind.name, "connections": held, "cut_off": ended,
			"health_worst_ms": health.Milliseconds(), "health_asked": healthAsked, "health_failed": healthFailed,
			"list_worst_ms": lists.Milliseconds(), "list_asked": listAsked, "list_failed": listFailed,
			"memory_before": before, "memory_peak": peak, "memory_after": memory()})
	}
	text, err := json.Marshal(results)
	server.Must(err)
	fmt.Println(string(text))
}
