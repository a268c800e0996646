// Package lanes asks what a pair of nodes carries over a long line that loses packets, beside one bare TCP connection on the
// same line.  What one connection carries there is bounded by how it takes a loss, not by the line.
package lanes

import (
	"context"
	"io"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"

	"golang.org/x/sys/unix"
	"tailscale.com/derp"
)

func TestMain(m *testing.M) { harness.Main(m) }

const (
	pairs   = 16
	size    = 1400
	warm    = 6 * time.Second
	measure = 12 * time.Second
)

// badLine is two nodes with 100 ms between them, each way, and one packet of a hundred lost.
func badLine(t *testing.T, args ...string) *harness.Cluster {
	t.Helper()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1, 1}, Namespaces: true, Args: args})
	ways := c.Nodes[0].Name + "-" + c.Nodes[1].Name
	c.Net.Do(t, "delay %s 100", ways)
	c.Net.Do(t, "loss %s 0.01", ways)
	return c
}

// mbits is what came per second while it was measured.
func mbits(came *atomic.Int64) float64 {
	time.Sleep(warm)
	before, start := came.Load(), time.Now()
	time.Sleep(measure)
	return float64(came.Load()-before) * 8 / 1e6 / time.Since(start).Seconds()
}

// bare is what one TCP connection with that congestion control gets through.
func bare(t *testing.T, c *harness.Cluster, congestion string) float64 {
	t.Helper()
	from, to := c.Nodes[0].Name, c.Nodes[1].Name
	l := c.Net.Listen(t, to, "tcp", c.Net.Addr(to)+":0")
	defer l.Close()
	var came atomic.Int64
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		b := make([]byte, 256<<10)
		for err == nil {
			var n int
			n, err = conn.Read(b)
			came.Add(int64(n))
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Scaled(20*time.Second))
	defer cancel()
	conn, err := c.Net.Dial(ctx, from, "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion)
	})
	if err != nil {
		t.Fatalf("%s cannot be had on this machine: %v", congestion, err)
	}
	go io.Copy(conn, zeros{})
	return mbits(&came)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// meshed is what pairs of clients, one at each of the two nodes, get through to each other.
func meshed(t *testing.T, c *harness.Cluster) float64 {
	t.Helper()
	var came atomic.Int64
	stop := make(chan struct{})
	defer close(stop)
	for range pairs {
		a := c.Nodes[0].Connect(t, harness.Opts{Home: true, OnPacket: func(derp.ReceivedPacket) {}})
		b := c.Nodes[1].Connect(t, harness.Opts{Home: true, OnPacket: func(p derp.ReceivedPacket) { came.Add(int64(len(p.Data))) }})
		go func() {
			packet := harness.Random(size)
			time.Sleep(time.Second) // the announcement is under way
			for {
				select {
				case <-stop:
					return
				default:
				}
				for range 8 {
					if a.Send(b.Pub, packet) != nil {
						return
					}
				}
				time.Sleep(2 * time.Millisecond) // at most 45 Mbit/s
			}
		}()
	}
	return mbits(&came)
}

// TestOneConnectionIsNotTheLimit prints what docs/architecture.md quotes; what it demands is far below, since the machine
// may be busy.
func TestOneConnectionIsNotTheLimit(t *testing.T) {
	c := badLine(t)
	cubic, bbr := bare(t, c, "cubic"), bare(t, c, "bbr")
	own := meshed(t, c)
	c = badLine(t, "--mesh-congestion", "cubic")
	old := meshed(t, c)
	t.Logf("200 ms, 1 %% loss, Mbit/s: one connection %.1f (cubic) %.1f (bbr); two nodes with bbr %.1f: %.1f and %.1f times; "+
		"with cubic %.1f: %.1f times", cubic, bbr, own, own/cubic, own/bbr, old, old/cubic)
	if own < 4*cubic {
		t.Errorf("two nodes with bbr carry %.1f Mbit/s where one connection with cubic carries %.1f", own, cubic)
	}
	if old < 2*cubic {
		t.Errorf("two nodes with cubic carry %.1f Mbit/s where one connection carries %.1f", old, cubic)
	}
}
