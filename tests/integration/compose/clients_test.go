package compose

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// client is Tailscale's client as magicsock uses it: it connects again by itself, and says so by another ServerInfo.
type client struct {
	*derphttp.Client
	key    key.NodePrivate
	region *tailcfg.DERPRegion
	stop   chan struct{}

	mu     sync.Mutex
	logins int
	got    map[key.NodePublic]map[uint32]int // packets by sender and number
	at     map[key.NodePublic][]time.Time    // when those of talk came
	talked int                               // packets that talk sent
}

func newClient(t testing.TB, k key.NodePrivate, region *tailcfg.DERPRegion, pool *x509.CertPool) *client {
	t.Helper()
	c := &client{key: k, region: region, stop: make(chan struct{}), got: map[key.NodePublic]map[uint32]int{}, at: map[key.NodePublic][]time.Time{}}
	c.Client = derphttp.NewRegionClient(k, func(string, ...any) {}, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region })
	c.TLSConfig = &tls.Config{RootCAs: pool}
	c.NotePreferred(true)
	t.Cleanup(func() { close(c.stop); c.Close() })
	go c.run()
	return c
}

func (c *client) run() {
	for {
		select {
		case <-c.stop:
			return
		default:
		}
		m, err := c.Recv()
		if err != nil {
			time.Sleep(200 * time.Millisecond)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			c.Connect(ctx)
			cancel()
			continue
		}
		c.mu.Lock()
		switch m := m.(type) {
		case derp.ServerInfoMessage:
			c.logins++
		case derp.ReceivedPacket:
			if len(m.Data) == 4 {
				if c.got[m.Source] == nil {
					c.got[m.Source] = map[uint32]int{}
				}
				n := binary.BigEndian.Uint32(m.Data)
				c.got[m.Source][n]++
				if n >= 1<<31 {
					c.at[m.Source] = append(c.at[m.Source], time.Now())
				}
			}
		}
		c.mu.Unlock()
	}
}

func (c *client) times() int { c.mu.Lock(); defer c.mu.Unlock(); return c.logins }

func (c *client) has(from key.NodePublic, number uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got[from][number] > 0
}

// waitLogins waits until each of them has logged in more often than before.
func waitLogins(t testing.TB, limit time.Duration, before map[*client]int, clients []*client) {
	t.Helper()
	for _, c := range clients {
		harness.Eventually(t, limit, fmt.Sprintf("client of region %d logs in again", c.region.RegionID), func() error {
			if c.times() <= before[c] {
				return fmt.Errorf("%d logins", c.times())
			}
			return nil
		})
	}
}

var number uint32

// everyPair sends from each client to each other and waits until all of it has come; it sends again what has not, as the
// protocols above DERP do.  How many had to be sent.
func everyPair(t testing.TB, clients []*client) (pairs, sent int) {
	t.Helper()
	number++
	n := number
	harness.Eventually(t, 40*time.Second, "packets between all clients", func() error {
		missing, example := 0, ""
		for _, from := range clients {
			for _, to := range clients {
				if from == to || to.has(from.key.Public(), n) {
					continue
				}
				missing++
				example = fmt.Sprintf("%d to %d", from.region.RegionID, to.region.RegionID)
				var b [4]byte
				binary.BigEndian.PutUint32(b[:], n)
				sent++
				from.Send(to.key.Public(), b[:])
			}
		}
		if missing == 0 {
			return nil
		}
		time.Sleep(200 * time.Millisecond)
		return fmt.Errorf("%d of %d are missing, one of them %s", missing, len(clients)*(len(clients)-1), example)
	})
	return len(clients) * (len(clients) - 1), sent
}

// served is the certificate that a server shows to who asks for that name.
func served(addr, name string) (*x509.Certificate, error) {
	d := &net.Dialer{Timeout: 5 * time.Second}
	c, err := tls.DialWithDialer(d, "tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}
