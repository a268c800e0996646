package harness

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// A network of one's own: the test program starts itself again in new network and mount namespaces, so that nothing of
// what it starts (a tailscaled looks for gateways) reaches the machine's network, and whatever it makes there ends with it.
// In it, hosts with namespaces of their own hang on one router, which can be told to drop what goes between them.

const inNetwork = "DERPMESH_TEST_NETWORK"

// MainInNetwork is Main for packages that need such a network.  It takes root.
func MainInNetwork(m *testing.M) {
	if os.Getenv(inNetwork) != "" {
		if err := setUpNetwork(); err != nil {
			fmt.Fprintf(os.Stderr, "a network of our own: %v\n", err)
			os.Exit(1)
		}
		Main(m)
	}
	runtime.LockOSThread() // Pdeathsig means the thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNetwork+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintf(os.Stderr, "new namespaces (root is needed): %v\n", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// setUpNetwork: loopback, a default route to nowhere (or programs think that there is no network), and names for
// namespaces that nobody else sees.
func setUpNetwork() error {
	resolv := filepath.Join(os.TempDir(), fmt.Sprintf("resolv.%d", os.Getpid()))
	if err := os.WriteFile(resolv, []byte("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		return err
	}
	defer os.Remove(resolv)
	return shell(fmt.Sprintf(`
mount --make-rprivate /
mkdir -p /run/netns
mount -t tmpfs none /run/netns
mount --bind %s "$(readlink -f /etc/resolv.conf)"
ip link set lo up
ip link add nowhere type veth peer name nobody
ip link set nobody up
ip addr add 198.18.255.1/24 dev nowhere
ip link set nowhere up
ip route add default dev nowhere
sysctl -qw net.ipv4.ip_forward=1
nft add table ip cuts
nft 'add chain ip cuts forward { type filter hook forward priority 0; }'
`, resolv))
}

func shell(script string) error {
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%v: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Host is a machine of the network: a namespace with one address, behind the router that this program is on.
type Host struct {
	Name, IP string
}

var hosts atomic.Uint32

// NewHost makes one; it ends with the test.
func NewHost(t testing.TB, name string) *Host {
	t.Helper()
	i := hosts.Add(1)
	h := &Host{
		Name: fmt.Sprintf("%s-%d", name, i),
		IP:   fmt.Sprintf("198.18.%d.2", i),
	}
	must(t, shell(fmt.Sprintf(`
ip netns add %[1]s
ip link add v%[2]d type veth peer name eth0 netns %[1]s
ip addr add 198.18.%[2]d.1/24 dev v%[2]d
ip link set v%[2]d up
ip -n %[1]s link set lo up
ip -n %[1]s addr add %[3]s/24 dev eth0
ip -n %[1]s link set eth0 up
ip -n %[1]s route add default via 198.18.%[2]d.1
`, h.Name, i, h.IP)))
	t.Cleanup(func() {
		h.Join()
		shell("ip netns del " + h.Name)
	})
	return h
}

// Command is a program's command line on the host; a nil host is where this program is.
func (h *Host) Command(program string, args ...string) (string, []string) {
	if h == nil {
		return program, args
	}
	return "ip", append([]string{"netns", "exec", h.Name, program}, args...)
}

// Cut drops without a word all that goes between the host and others; with no others, all.
func (h *Host) Cut(t testing.TB, others ...*Host) {
	t.Helper()
	peers := "198.18.0.0/15"
	if len(others) > 0 {
		var ips []string
		for _, o := range others {
			ips = append(ips, o.IP)
		}
		peers = strings.Join(ips, ", ")
	}
	for _, hook := range []string{"forward"} {
		must(t, shell(fmt.Sprintf(`
nft 'add rule ip cuts %[1]s ip saddr %[2]s ip daddr { %[3]s } drop comment "%[4]s"'
nft 'add rule ip cuts %[1]s ip saddr { %[3]s } ip daddr %[2]s drop comment "%[4]s"'
`, hook, h.IP, peers, h.Name)))
	}
}

// Join takes back all cuts of the host.
func (h *Host) Join() error {
	return shell(fmt.Sprintf(`nft -a list chain ip cuts forward | sed -n 's/.*comment "%s" # handle \([0-9]*\)$/\1/p' |
while read -r handle; do nft delete rule ip cuts forward handle "$handle"; done`, h.Name))
}

// FreeAddr is an address and port of the loopback interface that nobody listens on.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}
