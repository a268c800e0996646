package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Proc is one run of a program; everything that it prints goes to one file.
type Proc struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when the program has ended and err is set
	err  error

	mu     sync.Mutex
	killed bool // it was ended by force, on purpose
}

func startProc(t testing.TB, name, logPath string, env []string, program string, args ...string) *Proc {
	t.Helper()
	f, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	defer f.Close()
	fmt.Fprintf(f, "$ %s %s\n", filepath.Base(program), strings.Join(args, " "))
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.Env = append(cleanEnv(), env...)
	// The node ends with the test program, even when that one is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	p := &Proc{name: name, cmd: cmd, log: logPath, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p
}

// Run starts a program that is no node, such as a proxy; it ends with the test, whatever it then says.
func Run(t testing.TB, dir, program string, args ...string) *Proc {
	t.Helper()
	return RunProgram(t, dir, program, nil, args...)
}

// RunProgram is Run with more in the environment.
func RunProgram(t testing.TB, dir, program string, env []string, args ...string) *Proc {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	name := filepath.Base(program)
	log := filepath.Join(dir, name+".log")
	env = append([]string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}, env...)
	p := startProc(t, name, log, env, path, args...)
	t.Cleanup(func() {
		p.kill(t)
		if t.Failed() {
			printLog(t, name, log)
		}
	})
	return p
}

// Log is the file of all that it printed.
func (p *Proc) Log() string { return p.log }

// CPU is the processor time that the node has used so far.
func (n *Node) CPU(t testing.TB) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.PID()))
	must(t, err)
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var user, system int64
	_, err = fmt.Sscan(f[11]+" "+f[12], &user, &system)
	must(t, err)
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

func (p *Proc) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *Proc) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("%s: signal %v: %v", p.name, sig, err)
	}
}

// stop asks the program to end and reports whatever was not clean about its life.
func (p *Proc) stop(t testing.TB) {
	t.Helper()
	limit := Scaled(30 * time.Second)
	if !p.ended() {
		p.signal(t, syscall.SIGTERM)
	}
	select {
	case <-p.done:
	case <-time.After(limit):
		t.Errorf("%s: still there %v after SIGTERM", p.name, limit)
		p.kill(t)
	}
	p.mu.Lock()
	killed := p.killed
	p.mu.Unlock()
	if p.err != nil && !killed {
		t.Errorf("%s: ended badly: %v", p.name, p.err)
	}
}

// kill ends the program at once, as kill -9 does, and waits until it is gone.
func (p *Proc) kill(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	p.killed = true
	p.mu.Unlock()
	p.signal(t, syscall.SIGKILL)
	<-p.done
}

// What a sanitizer prints, and what the program must never print.
var faults = []string{
	"ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer", "runtime error:",
	"panic:", "Assertion `",
}

func checkLog(t testing.TB, name, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	for _, f := range faults {
		if i := bytes.Index(b, []byte(f)); i >= 0 {
			t.Errorf("%s printed %q:\n%s", name, f, b[i:min(len(b), i+4000)])
		}
	}
}

func printLog(t testing.TB, name, path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Logf("%s: %v", name, err)
		return
	}
	const most = 12000
	if len(b) > most {
		b = append([]byte("[…]\n"), b[len(b)-most:]...)
	}
	t.Logf("----- log of %s -----\n%s-----", name, b)
}

// cleanEnv is our environment without the variables that only this harness knows:
// derpmesh refuses a DERPMESH_ variable that is no setting of it.
func cleanEnv() []string {
	var out []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "DERPMESH_") {
			out = append(out, kv)
		}
	}
	return out
}

// Check runs `derpmesh check` with the node's settings: what it prints, and an error if it finds a fault.
func (n *Node) Check() (string, error) {
	args := n.args()
	args[0] = "check"
	cmd := exec.Command(os.Getenv("DERPMESH_BIN"), args...)
	cmd.Env = cleanEnv()
	out, err := cmd.CombinedOutput()
	return string(out), err
}
