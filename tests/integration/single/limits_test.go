package single

import (
	"net"
	"strconv"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

// silent opens connections from one address that say nothing.
func silent(t *testing.T, n *harness.Node, from string, count int) (conns []net.Conn) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: harness.Scaled(5 * time.Second)}
	for range count {
		c, err := d.Dial("tcp", net.JoinHostPort(n.Addr, strconv.Itoa(n.DERPPort)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns = append(conns, c)
	}
	return conns
}

// alive counts the connections that the node has not closed.
func alive(conns []net.Conn) (n int) {
	for _, c := range conns {
		c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		if e, ok := err.(net.Error); ok && e.Timeout() {
			n++
		}
	}
	return n
}

// counter waits until a counter of status has at least that value.
func counter(t *testing.T, n *harness.Node, name string, atLeast int64) {
	t.Helper()
	var got int64
	for deadline := time.Now().Add(harness.Scaled(5 * time.Second)); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		s, err := n.Status()
		if err != nil {
			t.Fatal(err)
		}
		if got = s.Traffic[name]; got >= atLeast {
			return
		}
	}
	t.Errorf("%s is %v, want at least %v", name, got, atLeast)
}

// TestLoginLimits: connections before login are bounded for each address and in all, and whoever means it gets in
// all the same.
func TestLoginLimits(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, Cert: harness.CertCA,
		Args: []string{"--login-limit-ip", "10", "--login-limit", "30"}}).Nodes[0]
	conns := silent(t, n, "127.0.0.61", 15)
	counter(t, n, "refused_address_limit", 5)
	if got := alive(conns); got != 10 {
		t.Errorf("%d of 15 silent connections of one address are open, want 10", got)
	}
	for _, from := range []string{"127.0.0.62", "127.0.0.63", "127.0.0.64", "127.0.0.65"} {
		conns = append(conns, silent(t, n, from, 10)...)
	}
	counter(t, n, "refused_login_limit", 20)
	if got := alive(conns); got > 30 {
		t.Errorf("%d silent connections are open, want 30 at most", got)
	}
	a, b := n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{})
	msg := harness.Random(100)
	a.MustSend(t, b.Pub, msg)
	b.WaitPacket(t, a.Pub, msg)
}

// TestSlowLogin: who neither speaks nor goes is closed after ten seconds, who speaks a byte now and then after twenty.
func TestSlowLogin(t *testing.T) {
	t.Parallel()
	n := one(t, harness.Derpmesh, harness.CertCA)
	mute, slow := silent(t, n, "127.0.0.66", 1)[0], silent(t, n, "127.0.0.67", 1)[0]
	ch := hello(t)
	start := time.Now()
	muteEnd := make(chan time.Duration, 1)
	go func() {
		mute.Read(make([]byte, 1))
		muteEnd <- time.Since(start)
	}()
	for i := 0; time.Since(start) < harness.Scaled(40*time.Second); i++ {
		if _, err := slow.Write(ch[i : i+1]); err != nil {
			break
		}
		time.Sleep(time.Second)
	}
	took := time.Since(start)
	if took < 15*time.Second || took > harness.Scaled(30*time.Second) {
		t.Errorf("a slow login lasted %v, want about 20 s", took)
	}
	if d := <-muteEnd; d < 8*time.Second || d > harness.Scaled(18*time.Second) {
		t.Errorf("a mute connection lasted %v, want about 10 s", d)
	}
	counter(t, n, "closed_login_timeout", 2)
}
