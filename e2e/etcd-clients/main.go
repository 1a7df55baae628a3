// etcd-clients ENDPOINT: what etcd's client library builds on top of the API (namespaces, ordering, software transactions, locks, elections,
// leasing, mirrors, nested transactions, watches in fragments), run against one endpoint. A line for each; ends with 1 if one fails.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	failed := 0
	for _, test := range []struct {
		name string
		run  func(context.Context, *clientv3.Client) error
	}{
		{"namespace", namespaces}, {"ordering", orderings}, {"transactions in memory", stm}, {"locks", locks}, {"elections", elections},
		{"leasing", leases}, {"mirror", mirrors}, {"nested transactions", nested}, {"watch in fragments", fragments}, {"expiry", expiry},
	} {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Args[1]}, DialTimeout: 10 * time.Second})
		if err == nil {
			_, err = client.Delete(ctx, "", clientv3.WithFromKey())
		}
		if err == nil {
			err = test.run(ctx, client)
			client.Close()
		}
		if err != nil {
			fmt.Printf("FAILED %s: %v\n", test.name, err)
			failed = 1
			continue
		}
		fmt.Printf("ok %s\n", test.name)
	}
	os.Exit(failed)
}

func want(got, wanted any) error {
	if a, b := fmt.Sprint(got), fmt.Sprint(wanted); a != b {
		return fmt.Errorf("%s, not %s", a, b)
	}
	return nil
}

func keys(response *clientv3.GetResponse) string {
	var all []string
	for _, kv := range response.Kvs {
		all = append(all, string(kv.Key)+"="+string(kv.Value))
	}
	return strings.Join(all, " ")
}

// All calls see keys below a prefix only, watches and transactions too.
func namespaces(ctx context.Context, c *clientv3.Client) error {
	kv, watcher := namespace.NewKV(c.KV, "/n/"), namespace.NewWatcher(c.Watcher, "/n/")
	events := watcher.Watch(ctx, "", clientv3.WithPrefix())
	if _, err := c.Put(ctx, "outside", "x"); err != nil {
		return err
	}
	txn, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.Version("a"), "=", 0)).Then(clientv3.OpPut("a", "1"), clientv3.OpPut("b", "2"), clientv3.OpGet("", clientv3.WithFromKey())).Commit()
	if err != nil {
		return err
	}
	if err := want(txn.Succeeded, true); err != nil {
		return err
	}
	if err := want(txn.Responses[2].GetResponseRange().Count, 2); err != nil {
		return err
	}
	event := <-events
	if err := want(string(event.Events[0].Kv.Key), "a"); err != nil {
		return err
	}
	all, err := c.Get(ctx, "", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	return want(keys(all), "/n/a=1 /n/b=2 outside=x")
}

// Reads never go back to an older revision.
func orderings(ctx context.Context, c *clientv3.Client) error {
	kv := ordering.NewKV(c.KV, func(clientv3.Op, clientv3.OpResponse, int64) error { return ordering.ErrNoGreaterRev })
	for i := 0; i < 50; i++ {
		if _, err := kv.Put(ctx, "o", fmt.Sprint(i)); err != nil {
			return err
		}
		got, err := kv.Get(ctx, "o", clientv3.WithSerializable())
		if err != nil {
			return err
		}
		if err := want(string(got.Kvs[0].Value), i); err != nil {
			return err
		}
	}
	return nil
}

// Ten clients move money between accounts; the sum stays.
func stm(ctx context.Context, c *clientv3.Client) error {
	for i := 0; i < 4; i++ {
		if _, err := c.Put(ctx, fmt.Sprintf("account/%d", i), "100"); err != nil {
			return err
		}
	}
	var group sync.WaitGroup
	errs := make(chan error, 10)
	for n := 0; n < 10; n++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := 0; i < 5; i++ {
				from, to := fmt.Sprintf("account/%d", (n+i)%4), fmt.Sprintf("account/%d", (n+i+1)%4)
				_, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
					var a, b int
					fmt.Sscan(s.Get(from), &a)
					fmt.Sscan(s.Get(to), &b)
					s.Put(from, fmt.Sprint(a-1))
					s.Put(to, fmt.Sprint(b+1))
					return nil
				}, concurrency.WithIsolation(concurrency.SerializableSnapshot), concurrency.WithAbortContext(ctx))
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	group.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	all, err := c.Get(ctx, "account/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	sum := 0
	for _, kv := range all.Kvs {
		var n int
		fmt.Sscan(string(kv.Value), &n)
		sum += n
	}
	return want(sum, 400)
}

// One holder at a time, and who dies lets go.
func locks(ctx context.Context, c *clientv3.Client) error {
	var holders, most, held atomic.Int32
	var group sync.WaitGroup
	errs := make(chan error, 5)
	for n := 0; n < 5; n++ {
		group.Add(1)
		go func() {
			defer group.Done()
			session, err := concurrency.NewSession(c, concurrency.WithTTL(5))
			if err != nil {
				errs <- err
				return
			}
			defer session.Close()
			mutex := concurrency.NewMutex(session, "/lock")
			if err := mutex.Lock(ctx); err != nil {
				errs <- err
				return
			}
			if now := holders.Add(1); now > most.Load() {
				most.Store(now)
			}
			held.Add(1)
			time.Sleep(10 * time.Millisecond)
			holders.Add(-1)
			if n%2 == 0 {
				errs <- mutex.Unlock(ctx)
			}
		}()
	}
	group.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return want(fmt.Sprint(held.Load(), most.Load()), "5 1")
}

func elections(ctx context.Context, c *clientv3.Client) error {
	first, err := concurrency.NewSession(c, concurrency.WithTTL(5))
	if err != nil {
		return err
	}
	second, err := concurrency.NewSession(c, concurrency.WithTTL(5))
	if err != nil {
		return err
	}
	defer second.Close()
	one, two := concurrency.NewElection(first, "/e"), concurrency.NewElection(second, "/e")
	if err := one.Campaign(ctx, "one"); err != nil {
		return err
	}
	won := make(chan error, 1)
	go func() { won <- two.Campaign(ctx, "two") }()
	leader, err := two.Leader(ctx)
	if err != nil {
		return err
	}
	if err := want(string(leader.Kvs[0].Value), "one"); err != nil {
		return err
	}
	if err := first.Close(); err != nil {
		return err
	}
	if err := <-won; err != nil {
		return err
	}
	observed := <-two.Observe(ctx)
	return want(string(observed.Kvs[0].Value), "two")
}

// A client owns keys and answers reads by itself; another one takes them over by writing.
func leases(ctx context.Context, c *clientv3.Client) error {
	owner, done, err := leasing.NewKV(c, "/leasing/")
	if err != nil {
		return err
	}
	defer done()
	other, doneToo, err := leasing.NewKV(c, "/leasing/")
	if err != nil {
		return err
	}
	defer doneToo()
	if _, err := owner.Put(ctx, "k", "1"); err != nil {
		return err
	}
	for i := 0; i < 5; i++ {
		if _, err := owner.Get(ctx, "k"); err != nil {
			return err
		}
		if _, err := other.Put(ctx, "k", fmt.Sprint(i)); err != nil {
			return err
		}
		got, err := owner.Get(ctx, "k")
		if err != nil {
			return err
		}
		if err := want(keys(got), fmt.Sprintf("k=%d", i)); err != nil {
			return err
		}
	}
	txn, err := other.Txn(ctx).If(clientv3.Compare(clientv3.Value("k"), "=", "4")).Then(clientv3.OpDelete("k")).Commit()
	if err != nil {
		return err
	}
	return want(txn.Succeeded, true)
}

// What there is, and then what changes.
func mirrors(ctx context.Context, c *clientv3.Client) error {
	for i := 0; i < 1500; i++ {
		if _, err := c.Put(ctx, fmt.Sprintf("/m/%04d", i), "v"); err != nil {
			return err
		}
	}
	syncer := mirror.NewSyncer(c, "/m/", 0)
	pages, errs := syncer.SyncBase(ctx)
	found := 0
	for page := range pages {
		found += len(page.Kvs)
	}
	if err := <-errs; err != nil {
		return err
	}
	if err := want(found, 1500); err != nil {
		return err
	}
	updates := syncer.SyncUpdates(ctx)
	if _, err := c.Delete(ctx, "/m/0007"); err != nil {
		return err
	}
	update := <-updates
	return want(fmt.Sprint(update.Events[0].Type, " ", string(update.Events[0].Kv.Key)), "DELETE /m/0007")
}

func nested(ctx context.Context, c *clientv3.Client) error {
	is := func(key, value string) clientv3.Cmp { return clientv3.Compare(clientv3.Value(key), "=", value) }
	inner := clientv3.OpTxn([]clientv3.Cmp{is("a", "1")}, []clientv3.Op{clientv3.OpPut("b", "inner"), clientv3.OpGet("b")}, []clientv3.Op{clientv3.OpPut("b", "else")})
	deeper := clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpTxn([]clientv3.Cmp{is("b", "nothing")}, nil, []clientv3.Op{clientv3.OpDelete("b", clientv3.WithPrevKV())})}, nil)
	txn, err := c.Txn(ctx).Then(clientv3.OpPut("a", "1"), inner, deeper).Commit()
	if err != nil {
		return err
	}
	// What is compared is the state before the whole transaction.
	if err := want(txn.Responses[1].GetResponseTxn().Succeeded, false); err != nil {
		return err
	}
	gone := txn.Responses[2].GetResponseTxn().Responses[0].GetResponseTxn().Responses[0].GetResponseDeleteRange()
	if err := want(string(gone.PrevKvs[0].Value), "else"); err != nil {
		return err
	}
	all := clientv3.Compare(clientv3.CreateRevision("a").WithPrefix(), ">", 0)
	ranged, err := c.Txn(ctx).If(all).Then(clientv3.OpGet("a")).Commit()
	if err != nil {
		return err
	}
	return want(ranged.Succeeded, true)
}

// One revision with more than a message holds comes in parts and is put together.
func fragments(ctx context.Context, c *clientv3.Client) error {
	events := c.Watch(ctx, "/f/", clientv3.WithPrefix(), clientv3.WithFragment(), clientv3.WithPrevKV())
	large := strings.Repeat("x", 100_000)
	for round := 0; round < 2; round++ {
		var ops []clientv3.Op
		for i := 0; i < 14; i++ {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/f/%d", i), large))
		}
		if _, err := c.Txn(ctx).Then(ops...).Commit(); err != nil {
			return err
		}
	}
	for round := 0; round < 2; {
		response := <-events
		if err := response.Err(); err != nil {
			return err
		}
		if len(response.Events) == 0 {
			continue
		}
		if len(response.Events)%14 != 0 {
			return fmt.Errorf("%d events at one revision", len(response.Events))
		}
		round += len(response.Events) / 14
	}
	return nil
}

func expiry(ctx context.Context, c *clientv3.Client) error {
	lease, err := c.Grant(ctx, 2)
	if err != nil {
		return err
	}
	for _, key := range []string{"x1", "x2"} {
		if _, err := c.Put(ctx, key, "", clientv3.WithLease(lease.ID)); err != nil {
			return err
		}
	}
	gone := <-c.Watch(ctx, "x", clientv3.WithPrefix(), clientv3.WithFilterPut())
	if err := gone.Err(); err != nil {
		return err
	}
	return want(len(gone.Events), 2)
}
