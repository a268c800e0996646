// Package netns puts programs and sockets of a test into network namespaces with a bad network between them: delay,
// loss, rate, cuts one way or both, changed while it runs (tests/tools/wire.c), and nftables inside each namespace.
//
// The namespaces have no names and need no cleaning up: they end with the wire and with the programs in them, also when the
// test is killed.  Addresses are 198.18.0.1, .2, … in each network; networks know nothing of each other.
// It needs root and the program in WIRE_BIN.  Where that cannot be had the test fails: it never skips.
package netns

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Net is a set of namespaces, each with one address, and the ways between them.
type Net struct {
	mu    sync.Mutex
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	where map[string]string // path of the namespace
	addr  map[string]string
}

// New makes a namespace for each name; the names are words of letters and digits.  What happens by chance is the same for
// the same seed and packets.
func New(t testing.TB, seed uint64, names ...string) *Net {
	t.Helper()
	bin := os.Getenv("WIRE_BIN")
	if bin == "" {
		t.Fatal("WIRE_BIN is not set: it must name the built tests/tools/wire")
	}
	n := &Net{where: map[string]string{}, addr: map[string]string{}}
	n.cmd = exec.Command(bin, "--seed", fmt.Sprint(seed))
	n.cmd.Stderr = os.Stderr
	var err error
	n.in, err = n.cmd.StdinPipe()
	must(t, err)
	out, err := n.cmd.StdoutPipe()
	must(t, err)
	n.out = bufio.NewReader(out)
	must(t, n.cmd.Start())
	t.Cleanup(func() {
		n.in.Close()
		n.cmd.Wait()
	})
	if _, err := n.answer(); err != nil {
		t.Fatalf("the wire does not start: %v", err)
	}
	for _, name := range names {
		n.Add(t, name)
	}
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// answer reads to the line that ends an answer; the lines before it, and what follows "ok".
func (n *Net) answer() ([]string, error) {
	var lines []string
	for {
		line, err := n.out.ReadString('\n')
		if err != nil {
			return nil, err
		}
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "ok"); ok {
			return append(lines, strings.TrimSpace(rest)), nil
		}
		if strings.HasPrefix(line, "error") {
			return nil, fmt.Errorf("%s", line)
		}
		lines = append(lines, line)
	}
}

func (n *Net) ask(format string, args ...any) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := fmt.Fprintf(n.in, format+"\n", args...); err != nil {
		return nil, err
	}
	return n.answer()
}

// Do gives the wire a command, such as "delay n1-n2 100": see tests/tools/wire.c.
func (n *Net) Do(t testing.TB, format string, args ...any) {
	t.Helper()
	if _, err := n.ask(format, args...); err != nil {
		t.Fatalf("wire: %v", err)
	}
}

// Add makes one namespace more and returns its address.
func (n *Net) Add(t testing.TB, name string) string {
	t.Helper()
	addr := fmt.Sprintf("198.18.0.%d", len(n.addr)+1)
	got, err := n.ask("port %s=%s", name, addr)
	if err != nil {
		t.Fatalf("no network namespace (root and /dev/net/tun are needed): %v", err)
	}
	n.where[name], n.addr[name] = got[0], addr
	return addr
}

// Addr is the address of a namespace.
func (n *Net) Addr(name string) string { return n.addr[name] }

// Way is what happened to the packets of one direction so far.
type Way struct {
	Sent, Lost, Full, Cut, Refused uint64 // packets: delivered, lost by chance, beyond the queue, cut off, not taken
	Waiting                        uint64 // bytes under way
}

// Stats counts for one direction.
func (n *Net) Stats(t testing.TB, from, to string) (w Way) {
	t.Helper()
	lines, err := n.ask("stats %s>%s", from, to)
	must(t, err)
	var ways string
	_, err = fmt.Sscanf(lines[0], "%s sent %d lost %d full %d cut %d refused %d waiting %d", &ways,
		&w.Sent, &w.Lost, &w.Full, &w.Cut, &w.Refused, &w.Waiting)
	must(t, err)
	return w
}

// Enter is the command line that runs a program inside: nsenter, which becomes the program.
func (n *Net) Enter(name, program string, args ...string) []string {
	return append([]string{"nsenter", "--net=" + n.where[name], "--", program}, args...)
}

// Run runs a program inside to its end; the test fails if that is not a good one.
func (n *Net) Run(t testing.TB, name, program string, args ...string) string {
	t.Helper()
	line := n.Enter(name, program, args...)
	out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %s %s: %v: %s", name, program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Rules replaces the packet filter inside: each line is an nftables rule of the chain "in" or "out", such as
// "out ip daddr 198.18.0.2 tcp dport 443 drop" or "in … reject with tcp reset".  None: no filter.
func (n *Net) Rules(t testing.TB, name string, rules ...string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("flush ruleset\n")
	if len(rules) > 0 {
		b.WriteString("table inet t {\n" +
			"chain in { type filter hook input priority 0; }\n" +
			"chain out { type filter hook output priority 0; }\n}\n")
	}
	for _, r := range rules {
		fmt.Fprintf(&b, "add rule inet t %s\n", r)
	}
	line := n.Enter(name, "nft", "-f", "-")
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdin = strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: nft: %v: %s\n%s", name, err, out, b.String())
	}
}

// Link brings the device of a namespace up or down, as a pulled cable does.
func (n *Net) Link(t testing.TB, name string, up bool) {
	t.Helper()
	state := "down"
	if up {
		state = "up"
	}
	n.Run(t, name, "ip", "link", "set", "wire0", state)
}

// In runs f inside: sockets that f itself opens belong to the namespace, and stay there.
func (n *Net) In(name string, f func() error) error {
	inside, err := os.Open(n.where[name])
	if err != nil {
		return err
	}
	defer inside.Close()
	runtime.LockOSThread()
	outside, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer outside.Close()
	if err := unix.Setns(int(inside.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("into the namespace of %s: %w", name, err)
	}
	err = f()
	if back := unix.Setns(int(outside.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(fmt.Sprintf("out of the namespace of %s: %v", name, back)) // this thread would be in the wrong place
	}
	runtime.UnlockOSThread()
	return err
}

// Dial connects from inside to an address literal.
func (n *Net) Dial(ctx context.Context, name, network, addr string) (conn net.Conn, err error) {
	err = n.In(name, func() error {
		// No parallel attempts: they would run on other threads.
		d := net.Dialer{FallbackDelay: -1}
		var e error
		conn, e = d.DialContext(ctx, network, addr)
		return e
	})
	return conn, err
}

// Listen accepts connections inside.
func (n *Net) Listen(t testing.TB, name, network, addr string) (l net.Listener) {
	t.Helper()
	must(t, n.In(name, func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	}))
	t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket opens a UDP socket inside.
func (n *Net) ListenPacket(t testing.TB, name, addr string) (c net.PacketConn) {
	t.Helper()
	must(t, n.In(name, func() (err error) {
		c, err = net.ListenPacket("udp4", addr)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

// Partition cuts each of one side off from each of the other, both ways, until the test heals it.
func (n *Net) Partition(t testing.TB, side, other []string) {
	t.Helper()
	n.Do(t, "cut %s-%s", strings.Join(side, ","), strings.Join(other, ","))
}

// Heal ends all cuts.
func (n *Net) Heal(t testing.TB) {
	t.Helper()
	n.Do(t, "heal *-*")
}

// Until polls for something that the test waits for; false when the time is over.
func Until(limit time.Duration, f func() bool) bool {
	for end := time.Now().Add(limit); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}
