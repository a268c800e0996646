package harness

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/disco"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Opts says how a client connects.
type Opts struct {
	Key      key.NodePrivate           // zero: a new one
	MaxTLS   uint16                    // e.g. tls.VersionTLS12
	URL      bool                      // by URL (derphttp.NewClient), not by an entry of the derpMap
	Node     *tailcfg.DERPNode         // instead of the cluster's own entry
	MeshKey  string                    // as a mesh peer
	Watch    bool                      // that wants to know who is connected
	Home     bool                      // says NotePreferred
	From     string                    // the namespace it connects from; "": its node's
	OnPacket func(derp.ReceivedPacket) // called for each packet, which then is no event
}

// Client is Tailscale's client with a record of what it received.  It never reconnects: what ends the
// connection is an event too.
type Client struct {
	*derphttp.Client
	Key  key.NodePrivate
	Pub  key.NodePublic
	Node *Node

	onPacket func(derp.ReceivedPacket)
	mu       sync.Mutex
	events   []Event
	more     chan struct{} // closed and replaced at each event
}

// Event is a message with its time.  Closed is the last one.
type Event struct {
	At  time.Time
	Msg any // derp.ReceivedPacket, derp.PeerGoneMessage, …, or Closed
}

// Closed says that the connection ended.
type Closed struct{ Err error }

// Connect logs in and waits for the ServerInfo; the client is closed with the test.
func (n *Node) Connect(t testing.TB, o Opts) *Client {
	t.Helper()
	c, err := n.TryConnect(t, o)
	if err != nil {
		t.Fatalf("connect to %s: %v", n.Name, err)
	}
	return c
}

// TryConnect is Connect for connections that may fail.
func (n *Node) TryConnect(t testing.TB, o Opts) (*Client, error) {
	t.Helper()
	priv := o.Key
	if priv.IsZero() {
		priv = key.NewNode()
	}
	quiet := func(string, ...any) {}
	c := &Client{Key: priv, Pub: priv.Public(), Node: n, onPacket: o.OnPacket, more: make(chan struct{})}
	if o.URL || n.c.Net != nil || (n.c.Cert == CertNone && o.Node == nil) {
		scheme, host := "https", n.HostName
		if n.c.Cert == CertNone {
			scheme = "http"
		}
		dc, err := derphttp.NewClient(priv, fmt.Sprintf("%s://%s:%d/derp", scheme, host, n.DERPPort), quiet, netmon.NewStatic())
		must(t, err)
		dc.SetURLDialer(func(ctx context.Context, network, addr string) (net.Conn, error) { return n.dial(ctx, o.From) })
		c.Client = dc
	} else {
		entry := o.Node
		if entry == nil {
			entry = n.DERPNode
		}
		region := &tailcfg.DERPRegion{RegionID: n.RegionID, RegionCode: "test", Nodes: []*tailcfg.DERPNode{entry}}
		c.Client = derphttp.NewRegionClient(priv, quiet, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region })
	}
	c.TLSConfig = &tls.Config{RootCAs: n.c.CA.Pool, MaxVersion: o.MaxTLS}
	if o.MeshKey != "" {
		k, err := key.ParseDERPMesh(o.MeshKey)
		must(t, err)
		c.MeshKey = k
		c.WatchConnectionChanges = o.Watch
	}
	if o.Home {
		c.NotePreferred(true)
	}
	ctx, cancel := context.WithTimeout(context.Background(), Scaled(10*time.Second))
	defer cancel()
	if err := c.Client.Connect(ctx); err != nil {
		c.Close()
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	go c.receive()
	first, ok := c.Wait(10*time.Second, func(e Event) bool { return true })
	if !ok {
		return nil, errors.New("no ServerInfo after the login")
	}
	if closed, ok := first.Msg.(Closed); ok {
		return nil, closed.Err
	}
	if _, ok := first.Msg.(derp.ServerInfoMessage); !ok {
		return nil, fmt.Errorf("the first message is %T, not the ServerInfo", first.Msg)
	}
	return c, nil
}

func (c *Client) receive() {
	for {
		m, err := c.Recv()
		if err != nil {
			c.add(Closed{err})
			c.Close() // or the next use would connect again
			return
		}
		if p, ok := m.(derp.ReceivedPacket); ok {
			if c.onPacket != nil {
				c.onPacket(p)
				continue
			}
			p.Data = bytes.Clone(p.Data)
			m = p
		}
		c.add(m)
	}
}

func (c *Client) add(m any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, Event{time.Now(), m})
	close(c.more)
	c.more = make(chan struct{})
}

// Events is all that came so far.
func (c *Client) Events() []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Event(nil), c.events...)
}

// Wait returns the first event for which f holds, waiting for it up to the (scaled) limit.
func (c *Client) Wait(limit time.Duration, f func(Event) bool) (Event, bool) {
	timeout := time.After(Scaled(limit))
	seen := 0
	for {
		c.mu.Lock()
		events, more := c.events, c.more
		c.mu.Unlock()
		for ; seen < len(events); seen++ {
			if f(events[seen]) {
				return events[seen], true
			}
		}
		select {
		case <-more:
		case <-timeout:
			return Event{}, false
		}
	}
}

// MustSend sends one packet.
func (c *Client) MustSend(t testing.TB, to key.NodePublic, data []byte) {
	t.Helper()
	if err := c.Send(to, data); err != nil {
		t.Fatalf("send: %v", err)
	}
}

// WaitPacket waits until this very payload came from the peer; what came after closing fails at once.
func (c *Client) WaitPacket(t testing.TB, from key.NodePublic, data []byte) {
	t.Helper()
	e, ok := c.Wait(10*time.Second, func(e Event) bool {
		if _, ok := e.Msg.(Closed); ok {
			return true
		}
		p, ok := e.Msg.(derp.ReceivedPacket)
		return ok && p.Source == from && bytes.Equal(p.Data, data)
	})
	if !ok {
		t.Fatalf("packet of %d bytes did not arrive; events: %s", len(data), c.Summary())
	}
	if closed, ok := e.Msg.(Closed); ok {
		t.Fatalf("connection ended while a packet was expected: %v", closed.Err)
	}
}

// Packets counts the packets with this payload.
func (c *Client) Packets(data []byte) (n int) {
	for _, e := range c.Events() {
		if p, ok := e.Msg.(derp.ReceivedPacket); ok && bytes.Equal(p.Data, data) {
			n++
		}
	}
	return n
}

// WaitGone waits for a PeerGone of the peer with the reason.
func (c *Client) WaitGone(t testing.TB, limit time.Duration, peer key.NodePublic, why derp.PeerGoneReasonType) {
	t.Helper()
	if _, ok := c.Wait(limit, func(e Event) bool {
		g, ok := e.Msg.(derp.PeerGoneMessage)
		return ok && g.Peer == peer && g.Reason == why
	}); !ok {
		t.Fatalf("no PeerGone reason %d within %v; events: %s", why, Scaled(limit), c.Summary())
	}
}

// Gone counts the PeerGones of the peer, whatever the reason.
func (c *Client) Gone(peer key.NodePublic) (n int) {
	for _, e := range c.Events() {
		if g, ok := e.Msg.(derp.PeerGoneMessage); ok && g.Peer == peer {
			n++
		}
	}
	return n
}

// AllGone counts all PeerGones.
func (c *Client) AllGone() (n int) {
	for _, e := range c.Events() {
		if _, ok := e.Msg.(derp.PeerGoneMessage); ok {
			n++
		}
	}
	return n
}

// Lost says whether the connection has ended, and why.
func (c *Client) Lost() error {
	for _, e := range c.Events() {
		if closed, ok := e.Msg.(Closed); ok {
			return closed.Err
		}
	}
	return nil
}

// Alive fails the test if the connection does not answer a Ping.
func (c *Client) Alive(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Scaled(5*time.Second))
	defer cancel()
	if err := c.Ping(ctx); err != nil {
		t.Fatalf("ping of %s: %v (connection: %v)", c.Node.Name, err, c.Lost())
	}
}

// Summary is one line for a failure's message.
func (c *Client) Summary() string {
	var b bytes.Buffer
	for _, e := range c.Events() {
		switch m := e.Msg.(type) {
		case derp.ReceivedPacket:
			fmt.Fprintf(&b, "packet(%s,%d) ", m.Source.ShortString(), len(m.Data))
		case derp.PeerGoneMessage:
			fmt.Fprintf(&b, "gone(%s,%d) ", m.Peer.ShortString(), m.Reason)
		case Closed:
			fmt.Fprintf(&b, "closed(%v) ", m.Err)
		default:
			fmt.Fprintf(&b, "%T ", m)
		}
	}
	return b.String()
}

// Random is a payload that nobody else sends.
func Random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// Disco is a packet such as clients find each other with; servers look at its head and size only.
func Disco(n int) []byte {
	b := Random(n)
	copy(b, disco.Magic)
	return b
}

// WaitRoutes waits until frames cross from each client to each other; repeats are sent until they do.
func (c *Cluster) WaitRoutes(t testing.TB, clients ...*Client) {
	t.Helper()
	for _, a := range clients {
		for _, b := range clients {
			if a == b {
				continue
			}
			data := []byte(fmt.Sprintf("route %s %d", a.Pub, time.Now().UnixNano()))
			Eventually(t, 40*time.Second, fmt.Sprintf("route %s -> %s", a.Node.Name, b.Node.Name), func() error {
				if err := a.Send(b.Pub, data); err != nil {
					return err
				}
				if b.Packets(data) == 0 {
					return errors.New("nothing arrives")
				}
				return nil
			})
		}
	}
}
