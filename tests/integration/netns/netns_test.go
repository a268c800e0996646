package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"
)

// pair is a network of two with a UDP socket at each.
func pair(t *testing.T) (n *Net, a, b net.PacketConn) {
	n = New(t, 7, "a", "b")
	return n, n.ListenPacket(t, "a", n.Addr("a")+":9"), n.ListenPacket(t, "b", n.Addr("b")+":9")
}

func to(t *testing.T, n *Net, from net.PacketConn, name string, b []byte) {
	t.Helper()
	_, err := from.WriteTo(b, &net.UDPAddr{IP: net.ParseIP(n.Addr(name)), Port: 9})
	must(t, err)
}

// count reads until nothing comes for the time given; it returns the packets' numbers in their order.
func count(c net.PacketConn, quiet time.Duration) (got []uint32) {
	b := make([]byte, 2000)
	for {
		c.SetReadDeadline(time.Now().Add(quiet))
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return got
		}
		if n >= 4 {
			got = append(got, binary.BigEndian.Uint32(b))
		}
	}
}

func send(t *testing.T, n *Net, from net.PacketConn, name string, packets, size int) {
	t.Helper()
	for i := range packets {
		b := make([]byte, size)
		binary.BigEndian.PutUint32(b, uint32(i))
		to(t, n, from, name, b)
		if i%50 == 49 {
			time.Sleep(time.Millisecond) // below what the sockets hold
		}
	}
}

// transfer sends and says what came, while it is read all the time.
func transfer(t *testing.T, n *Net, from net.PacketConn, name string, at net.PacketConn, packets, size int) []uint32 {
	t.Helper()
	got := make(chan []uint32)
	go func() { got <- count(at, 300*time.Millisecond) }()
	send(t, n, from, name, packets, size)
	return <-got
}

// trips measures round trips from a to b.
func trips(t *testing.T, n *Net, a, b net.PacketConn, times int) (took []time.Duration) {
	t.Helper()
	go func() {
		buf := make([]byte, 2000)
		for range times {
			k, from, err := b.ReadFrom(buf)
			if err != nil {
				return
			}
			b.WriteTo(buf[:k], from)
		}
	}()
	buf := make([]byte, 2000)
	for range times {
		start := time.Now()
		to(t, n, a, "b", []byte("ping"))
		a.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, _, err := a.ReadFrom(buf)
		must(t, err)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took
}

// A round trip takes twice the delay, and hardly more.
func TestDelay(t *testing.T) {
	n, a, b := pair(t)
	for _, delay := range []int{0, 25, 100} {
		n.Do(t, "delay a-b %d", delay)
		got := trips(t, n, a, b, 11)
		want := 2 * time.Duration(delay) * time.Millisecond
		t.Logf("delay %d ms: round trips %v to %v, median %v", delay, got[0], got[10], got[5])
		if got[0] < want || got[0] > want+20*time.Millisecond {
			t.Errorf("with %d ms each way the shortest round trip was %v", delay, got[0])
		}
	}
}

func TestOneWayDelay(t *testing.T) {
	n, a, b := pair(t)
	n.Do(t, "delay a>b 60")
	if got := trips(t, n, a, b, 5)[0]; got < 60*time.Millisecond || got > 85*time.Millisecond {
		t.Errorf("with 60 ms one way the round trip was %v", got)
	}
}

// Loss is as asked, and the same packets are lost with the same seed.
func TestLoss(t *testing.T) {
	var before []uint32
	for range 2 {
		n, a, b := pair(t)
		n.Do(t, "loss a>b 0.2")
		got := transfer(t, n, a, "b", b, 4000, 64)
		if len(got) < 3100 || len(got) > 3300 {
			t.Errorf("of 4000 packets with a loss of 20 %% %d came", len(got))
		}
		if w := n.Stats(t, "a", "b"); int(w.Sent) != len(got) || w.Sent+w.Lost != 4000 {
			t.Errorf("%d came, but the wire counts %+v", len(got), w)
		}
		if before != nil && !slices.Equal(before, got) {
			t.Error("another run with the same seed lost other packets")
		}
		before = got
	}
}

// Jitter changes when packets come, not their order.
func TestJitterKeepsOrder(t *testing.T) {
	n, a, b := pair(t)
	n.Do(t, "delay a-b 10 30")
	if got := transfer(t, n, a, "b", b, 500, 64); len(got) != 500 || !slices.IsSorted(got) {
		t.Errorf("%d of 500 came, in order: %v", len(got), slices.IsSorted(got))
	}
}

// What is above the rate waits in the queue, what is above the queue is dropped.
func TestRate(t *testing.T) {
	n, a, b := pair(t)
	n.Do(t, "rate a>b 8000000 50000") // 1 MB/s, 50 ms
	start := time.Now()
	all := make(chan []uint32)
	go func() { all <- count(b, 300*time.Millisecond) }()
	send(t, n, a, "b", 300, 972) // 1,000 bytes each with their headers
	sending := time.Since(start)
	got := <-all
	took := time.Since(start) - 300*time.Millisecond
	w := n.Stats(t, "a", "b")
	t.Logf("%d of 300 packets, sent in %v, came in %v, %+v", len(got), sending, took, w)
	// 50 wait, and one leaves each millisecond while the others come.
	if len(got) < 50 || len(got) > 50+int(sending.Milliseconds())+10 || len(got)+int(w.Full) != 300 {
		t.Errorf("%d packets of 1,000 bytes passed a queue of 50,000 and a rate of 1 MB/s in %v", len(got), sending)
	}
	if took < time.Duration(len(got)-10)*time.Millisecond {
		t.Errorf("%d packets passed in %v: more than 1 MB/s", len(got), took)
	}
	n.Do(t, "rate a>b 0 0")
	if got := transfer(t, n, a, "b", b, 300, 972); len(got) != 300 {
		t.Errorf("without a rate %d of 300 came", len(got))
	}
}

// Cuts are one way or both, and what is under way is lost too.
func TestCut(t *testing.T) {
	n, a, b := pair(t)
	reach := func(ab, ba int) {
		t.Helper()
		send(t, n, a, "b", 10, 64)
		send(t, n, b, "a", 10, 64)
		if x, y := len(count(b, 100*time.Millisecond)), len(count(a, 100*time.Millisecond)); x != ab || y != ba {
			t.Errorf("%d packets came from a and %d from b, want %d and %d", x, y, ab, ba)
		}
	}
	reach(10, 10)
	n.Do(t, "cut a>b")
	reach(0, 10)
	n.Do(t, "cut *-*")
	reach(0, 0)
	n.Heal(t)
	reach(10, 10)
	n.Do(t, "delay a-b 100")
	send(t, n, a, "b", 10, 64)
	time.Sleep(10 * time.Millisecond)
	n.Do(t, "cut a>b")
	if got := count(b, 300*time.Millisecond); len(got) != 0 {
		t.Errorf("%d packets came out of a cut wire", len(got))
	}
}

// TCP through the wire, and what nftables does to it inside.
func TestRules(t *testing.T) {
	n := New(t, 1, "a", "b")
	l := n.Listen(t, "b", "tcp", n.Addr("b")+":80")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	dial := func() (net.Conn, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		return n.Dial(ctx, "a", "tcp", n.Addr("b")+":80")
	}
	echo := func(c net.Conn) error {
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	c, err := dial()
	must(t, err)
	must(t, echo(c))
	n.Rules(t, "a", "out ip daddr "+n.Addr("b")+" tcp dport 80 reject with tcp reset")
	if err := echo(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset: %v", err)
	}
	if _, err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a connection that is answered by a reset: %v", err)
	}
	n.Rules(t, "a", "out tcp dport 80 drop")
	if _, err := dial(); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("a connection whose packets are dropped: %v", err)
	}
	n.Rules(t, "a")
	c, err = dial()
	must(t, err)
	must(t, echo(c))
	n.Link(t, "a", false)
	if _, err := dial(); err == nil {
		t.Error("connected though the link is down")
	}
	n.Link(t, "a", true)
	c, err = dial()
	must(t, err)
	must(t, echo(c))
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// How much passes, for people; a quarter of what the machine does is enough for each test that uses it.
func TestThroughput(t *testing.T) {
	n := New(t, 1, "a", "b")
	l := n.Listen(t, "b", "tcp", n.Addr("b")+":80")
	got := make(chan int64)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		k, _ := io.Copy(io.Discard, c)
		got <- k
	}()
	c, err := n.Dial(context.Background(), "a", "tcp", n.Addr("b")+":80")
	must(t, err)
	start := time.Now()
	for b := make([]byte, 64<<10); time.Since(start) < time.Second; {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	k := <-got
	t.Logf("%.0f Mbit/s", float64(k)*8/1e6/time.Since(start).Seconds())
	if k < 2<<20 {
		t.Errorf("only %d bytes in a second", k)
	}
}

// A wrong command is told, and a port more can come later.
func TestCommands(t *testing.T) {
	n := New(t, 1, "a", "b")
	for _, bad := range []string{"cut a-x", "cut a", "delay a-b", "delay a-b -1", "loss a-b 0.1 2", "hop a-b", "port a=198.18.0.9",
		"port c=198.18.0.1", "port c-d=198.18.0.9", "port c=1", ""} {
		if _, err := n.ask("%s", bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	n.Add(t, "c")
	a, c := n.ListenPacket(t, "a", n.Addr("a")+":9"), n.ListenPacket(t, "c", n.Addr("c")+":9")
	send(t, n, a, "c", 10, 64)
	if got := count(c, 100*time.Millisecond); len(got) != 10 {
		t.Errorf("%d of 10 packets came to the new port", len(got))
	}
}
