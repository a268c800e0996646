package harness

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"derpmesh/tests/integration/netns"
)

// A network of one's own: the test program starts itself again in new network and mount namespaces, so that nothing of
// what it starts (a tailscaled looks for gateways) reaches the machine's network, and whatever it makes there ends with it.

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

// setUpNetwork: loopback, no name servers, names and trusted authorities of one's own, and a default route to nowhere, or
// tailscaled thinks that there is no network.
func setUpNetwork() error {
	resolv := filepath.Join(os.TempDir(), fmt.Sprintf("resolv.%d", os.Getpid()))
	if err := os.WriteFile(resolv, []byte("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		return err
	}
	defer os.Remove(resolv)
	return shell(fmt.Sprintf(`
mount --make-rprivate /
mount --bind %s "$(readlink -f /etc/resolv.conf)"
for file in %s %s; do
    copy=$(mktemp)
    cp "$file" "$copy"
    mount --bind "$copy" "$file"
    rm "$copy"
done
ip link set lo up
ip link add nowhere type veth peer name nobody
ip link set nobody up
ip addr add 198.19.255.1/24 dev nowhere
ip link set nowhere up
ip route add default dev nowhere
`, resolv, hostsFile, trustFile))
}

const (
	hostsFile = "/etc/hosts"
	trustFile = "/etc/ssl/certs/ca-certificates.crt"
)

// AddHost makes a name known to the programs of this network.
func AddHost(t testing.TB, name, addr string) {
	t.Helper()
	appendTo(t, hostsFile, addr+" "+name+"\n")
}

// Trust makes the programs of this network trust an authority, those too that do not look at SSL_CERT_FILE.
func (ca *CA) Trust(t testing.TB) {
	t.Helper()
	appendTo(t, trustFile, string(ca.PEM))
}

func appendTo(t testing.TB, file, text string) {
	t.Helper()
	if os.Getenv(inNetwork) == "" {
		t.Fatalf("%s is the machine's own: TestMain must call MainInNetwork", file)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteString(text)
	must(t, err)
}

func shell(script string) error {
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%v: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Spot is where a program runs: in a namespace of the network, or here where there is none.
type Spot struct {
	Net  *netns.Net
	Name string
}

func (s Spot) line(program string, args ...string) (string, []string) {
	if s.Net == nil {
		return program, args
	}
	line := s.Net.Enter(s.Name, program, args...)
	return line[0], line[1:]
}

// FreeAddr is an address and port of the loopback interface that nobody listens on.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}
