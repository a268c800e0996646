package mesh

import (
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// deafen makes the kernel drop whatever comes in for the connection: it answers nothing any more, not even with an ACK.
func deafen(t *testing.T, conn net.Conn) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var attach error
	err = raw.Control(func(fd uintptr) {
		nothing := []syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K, K: 0}}
		attach = syscall.AttachLsf(int(fd), nothing)
	})
	if err != nil || attach != nil {
		t.Fatal(err, attach)
	}
}

// TestHalfDeadMove moves a client to another region while its old connection answers nothing any more and nobody has
// noticed: it is reachable again within three seconds, also for those at its old node, and the old connection goes.
func TestHalfDeadMove(t *testing.T) {
	c := cluster(t, harness.Derpmesh, 1, 1, 1)
	priv := key.NewNode()
	conn := c.Nodes[0].TCP(t)
	old := c.Nodes[0].Over(t, conn)
	old.Priv, old.Pub = priv, priv.Public()
	old.Login(t)
	old.WriteFrame(t, derp.FrameNotePreferred, []byte{1})
	var peers []*harness.Client
	for _, n := range c.Nodes {
		peers = append(peers, n.Connect(t, harness.Opts{Home: true}))
	}
	time.Sleep(harness.Scaled(500 * time.Millisecond))
	deafen(t, conn)
	time.Sleep(harness.Scaled(300 * time.Millisecond))
	began := time.Now()
	mover := c.Nodes[1].Connect(t, harness.Opts{Key: priv, Home: true})
	for _, p := range peers {
		for i := 0; ; i++ {
			text := []byte(fmt.Sprintf("%d from %s", i, p.Node.Name))
			p.MustSend(t, mover.Pub, text)
			time.Sleep(50 * time.Millisecond)
			if mover.Packets(text) > 0 {
				break
			}
			if time.Since(began) > harness.Scaled(10*time.Second) {
				t.Fatalf("from %s nothing arrives", p.Node.Name)
			}
		}
		took := time.Since(began)
		t.Logf("reachable from %s after %v (required: 3 s)", p.Node.Name, took.Round(time.Millisecond))
		if took > harness.Scaled(3*time.Second) {
			t.Errorf("reachable from %s only after %v", p.Node.Name, took)
		}
	}
	harness.Eventually(t, 10*time.Second, "the old connection is closed", func() error {
		s, err := c.Nodes[0].Status()
		if err == nil && s.Traffic["closed_moved"] != 1 {
			err = fmt.Errorf("closed_moved %d", s.Traffic["closed_moved"])
		}
		return err
	})
	mover.Alive(t)
}
