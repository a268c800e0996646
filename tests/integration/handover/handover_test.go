// Package handover shows that the program can be changed while it is used: no connection attempt is refused, and a client notices
// one closed connection.
package handover

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// peer is a client of Tailscale's library as tailscaled uses it: what ends the connection is answered by a new one.
type peer struct {
	*derphttp.Client
	priv   key.NodePrivate
	to     key.NodePublic
	sent   atomic.Uint32
	closed atomic.Int32

	mu      sync.Mutex
	got     map[uint32]bool
	last    time.Time
	silence time.Duration // the longest time without a packet
}

func join(t *testing.T, c *harness.Cluster, n *harness.Node) *peer {
	region := &tailcfg.DERPRegion{RegionID: n.RegionID, RegionCode: "test", Nodes: []*tailcfg.DERPNode{n.DERPNode}}
	p := &peer{priv: key.NewNode(), got: map[uint32]bool{}}
	p.Client = derphttp.NewRegionClient(p.priv, func(string, ...any) {}, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region })
	p.TLSConfig = &tls.Config{RootCAs: c.CA.Pool}
	p.NotePreferred(true)
	ctx, cancel := context.WithTimeout(context.Background(), harness.Scaled(10*time.Second))
	defer cancel()
	if err := p.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func (p *peer) receive(stop *atomic.Bool) {
	for !stop.Load() {
		m, err := p.Recv()
		if err != nil {
			p.closed.Add(1)
			if errors.Is(err, derphttp.ErrClientClosed) {
				return
			}
			time.Sleep(5 * time.Millisecond)
			continue
		}
		packet, ok := m.(derp.ReceivedPacket)
		if !ok || len(packet.Data) != 4 {
			continue
		}
		p.mu.Lock()
		now := time.Now()
		if !p.last.IsZero() {
			p.silence = max(p.silence, now.Sub(p.last))
		}
		p.last = now
		p.got[binary.BigEndian.Uint32(packet.Data)] = true
		p.mu.Unlock()
	}
}

func (p *peer) send(stop *atomic.Bool) {
	for !stop.Load() {
		p.Send(p.to, binary.BigEndian.AppendUint32(nil, p.sent.Add(1)))
		time.Sleep(20 * time.Millisecond)
	}
}

func (p *peer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.got)
}

// knock opens connections to the node without pause, and counts the attempts that failed.
func knock(n *harness.Node, stop *atomic.Bool, tried, refused *atomic.Int32) {
	for !stop.Load() {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(n.Addr, fmt.Sprint(n.DERPPort)), harness.Scaled(10*time.Second))
		tried.Add(1)
		if err != nil {
			refused.Add(1)
		} else {
			c.Close()
		}
		time.Sleep(time.Millisecond)
	}
}

// install puts another build of the program in the place of a file, as a package's upgrade does.
func install(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", text, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// version makes another one of the program, by its number alone.
func version(t *testing.T, text []byte, from, to string) []byte {
	t.Helper()
	out := strings.ReplaceAll(string(text), from+"\x00", to+"\x00")
	if out == string(text) {
		t.Fatalf("the program does not hold its version %s", from)
	}
	return []byte(out)
}

func versionOf(t *testing.T, n *harness.Node) string {
	t.Helper()
	s, err := n.Status()
	if err != nil {
		t.Fatal(err)
	}
	return s.Version
}

// three is a mesh of three regions whose nodes run from a file of their own each.
func three(t *testing.T) (*harness.Cluster, map[*harness.Node]string, []byte) {
	t.Helper()
	text, err := os.ReadFile(harness.Program(t, "DERPMESH_BIN"))
	if err != nil {
		t.Fatal(err)
	}
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1, 1, 1}, NoStart: true})
	program := map[*harness.Node]string{}
	for _, n := range c.Nodes {
		program[n] = filepath.Join(n.Dir, "derpmesh")
		install(t, program[n], text)
		n.Wrap = []string{"sh", "-c", `exec "` + program[n] + `" "$@"`}
	}
	c.StartAll(t)
	return c, program, text
}

// TestRolling: one node after the other gets a new version under traffic between all of them.
func TestRolling(t *testing.T) {
	c, program, text := three(t)
	old := versionOf(t, c.Nodes[0])
	next := old[:len(old)-1] + "9"
	var peers []*peer
	const each = 4
	for i := range each * len(c.Nodes) {
		peers = append(peers, join(t, c, c.Nodes[i%len(c.Nodes)]))
	}
	var stop, quiet atomic.Bool
	var tried, refused atomic.Int32
	var receivers, senders sync.WaitGroup
	for i, p := range peers {
		p.to = peers[(i+1)%len(peers)].priv.Public() // in the next region
		receivers.Go(func() { p.receive(&stop) })
		senders.Go(func() { p.send(&quiet) })
	}
	for _, n := range c.Nodes {
		senders.Go(func() { knock(n, &quiet, &tried, &refused) })
	}
	flowing := func(what string) {
		t.Helper()
		before := make([]int, len(peers))
		for i, p := range peers {
			before[i] = p.count()
		}
		harness.Eventually(t, 20*time.Second, what, func() error {
			for i, p := range peers {
				if p.count() < before[i]+10 {
					return fmt.Errorf("client %d gets nothing", i)
				}
			}
			return nil
		})
	}
	flowing("packets flow")
	for _, p := range peers {
		p.mu.Lock()
		p.silence, p.got = 0, map[uint32]bool{}
		p.mu.Unlock()
	}
	first := make([]uint32, len(peers))
	for i, p := range peers {
		first[i] = p.sent.Load() + 1 // what is under way now may have come before
	}
	for _, n := range c.Nodes {
		install(t, program[n], version(t, text, old, next))
		if err := n.HandOver(t); err != nil {
			t.Fatal(err)
		}
		n.WaitReady(t)
		if got := versionOf(t, n); got != next {
			t.Errorf("%s runs %s after the hand-over, want %s", n.Name, got, next)
		}
		flowing("packets flow after " + n.Name + " was replaced; two versions in one mesh")
	}
	quiet.Store(true)
	senders.Wait()
	time.Sleep(harness.Scaled(300 * time.Millisecond))
	lost, sent, closed, silence := 0, 0, 0, time.Duration(0)
	for i, p := range peers {
		receiver := peers[(i+1)%len(peers)]
		receiver.mu.Lock()
		for k := first[i] + 1; k <= p.sent.Load(); k++ {
			sent++
			if !receiver.got[k] {
				lost++
			}
		}
		receiver.mu.Unlock()
		closed += int(p.closed.Load())
		silence = max(silence, p.silence)
	}
	t.Logf("three nodes replaced, %s -> %s: %d of %d connection attempts refused; %d clients, %d closed connections, %d of %d packets lost; longest time without a packet %v (aim: 1s)",
		old, next, refused.Load(), tried.Load(), len(peers), closed, lost, sent, silence.Round(time.Millisecond))
	if refused.Load() > 0 {
		t.Errorf("%d of %d connection attempts were refused", refused.Load(), tried.Load())
	}
	if closed > 2*len(peers) {
		t.Errorf("%d connections of %d clients were closed, want one each", closed, len(peers))
	}
	if silence > harness.Scaled(10*time.Second) {
		t.Errorf("a client got nothing for %v", silence)
	}
	// Each flow meets the hand-over of its sender's and of its receiver's node: a second's packets each at the most.
	if most := int(harness.Scaled(time.Second)/(20*time.Millisecond)) * 2 * len(peers); lost > most {
		t.Errorf("%d packets were lost, more than %d", lost, most)
	}
	stop.Store(true)
	for _, p := range peers {
		p.Close()
	}
	receivers.Wait()
}

// TestNoHeir: a program that does not start, or files that are not in order, change nothing.
func TestNoHeir(t *testing.T) {
	t.Parallel()
	c, program, text := three(t)
	n := c.Nodes[0]
	client := n.Connect(t, harness.Opts{})
	pid := n.PID()
	refused := func(what, says string) {
		t.Helper()
		err := n.HandOver(t)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Fatalf("%s: %v, want %q", what, err, says)
		}
		if n.PID() != pid || !n.Running() {
			t.Fatalf("%s: another process", what)
		}
		if _, gone := client.Wait(time.Millisecond, func(e harness.Event) bool { _, is := e.Msg.(harness.Closed); return is }); gone {
			t.Errorf("%s: a client was closed", what)
		}
		n.Login(t) // and it serves
	}
	install(t, program[n], []byte("#!/bin/sh\nexit 7\n"))
	refused("a program that ends", "exit code 7")
	if err := os.Rename(program[n], program[n]+".away"); err != nil {
		t.Fatal(err)
	}
	refused("no file", "cannot be started")
	install(t, program[n], text)
	good, err := os.ReadFile(c.MapFile)
	if err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, c.MapFile, []byte("{"))
	refused("a bad map", "exit code 3")
	harness.WriteFile(t, c.MapFile, good)
	if err := n.HandOver(t); err != nil {
		t.Errorf("with all in order again: %v", err)
	}
	n.WaitReady(t)
}

// TestActivation: sockets from the service manager (LISTEN_FDS).  While no process is there attempts wait, and the next one
// answers them.
func TestActivation(t *testing.T) {
	t.Parallel()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, NoStart: true})
	n := c.Nodes[0]
	listener, err := net.Listen("tcp", net.JoinHostPort(n.Addr, fmt.Sprint(n.DERPPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	n.Wrap = []string{"python3", "-c", `import ctypes, os, sys
pid = os.pidfd_open(int(sys.argv[1]))
fd = ctypes.CDLL(None, use_errno=True).syscall(438, pid, int(sys.argv[2]), 0)  # pidfd_getfd
assert fd >= 0, os.strerror(ctypes.get_errno())
os.dup2(fd, 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[3], sys.argv[3:])`, fmt.Sprint(os.Getpid()), fmt.Sprint(file.Fd())}
	for range 3 {
		answered := make(chan error, 1)
		go func() { // before the process is there
			conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
			if err == nil {
				conn.Close()
			}
			answered <- err
		}()
		time.Sleep(50 * time.Millisecond)
		n.Start(t)
		n.WaitReady(t)
		select {
		case err := <-answered:
			if err != nil {
				t.Errorf("an attempt before the start: %v", err)
			}
		case <-time.After(harness.Scaled(20 * time.Second)):
			t.Error("an attempt before the start is never answered")
		}
		n.Login(t)
		n.Stop(t)
	}
	if out, err := exec.Command("ss", "-Hltn", "src", listener.Addr().String()).Output(); err != nil || !strings.Contains(string(out), "LISTEN") {
		t.Errorf("the socket listens no more after the node has stopped: %s %v", out, err)
	}
}
