package harness

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test ends with a search for secrets: the mesh keys and each node's private key must stand in no log, in nothing that
// /proc shows of the process, and in no answer of its admin socket.

var hex64 = regexp.MustCompile(`[0-9a-fA-F]{64}`)

// secrets are the cluster's: mesh keys ever set, and the nodes' private keys.
func (c *Cluster) secrets() (found []string) {
	found = append(found, c.meshKeys...)
	for _, n := range c.all {
		for _, file := range []string{"node.key", "derper.key"} {
			b, err := os.ReadFile(filepath.Join(n.Dir, file))
			if err == nil {
				found = append(found, hex64.FindAllString(string(b), -1)...)
			}
		}
	}
	return found
}

// leaks names the secrets (by number, not by value) that a text holds in any spelling.
func leaks(text string, secrets []string) (found []string) {
	lower := strings.ToLower(text)
	for i, s := range secrets {
		raw, err := hex.DecodeString(s)
		if err != nil {
			continue
		}
		if strings.Contains(lower, strings.ToLower(s)) || strings.Contains(text, string(raw)) ||
			strings.Contains(text, base64.StdEncoding.EncodeToString(raw)) {
			found = append(found, fmt.Sprintf("secret %d of %d", i+1, len(secrets)))
		}
	}
	return found
}

// checkSecrets looks while the node still runs; the log is looked at again at the end.
func (c *Cluster) checkSecrets(t testing.TB, n *Node, secrets []string) {
	t.Helper()
	if !n.Running() || n.Kind != Derpmesh {
		return
	}
	for _, file := range []string{"cmdline", "environ", "comm"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", n.PID(), file))
		if err == nil {
			n.noLeak(t, "/proc/PID/"+file, string(b), secrets)
		}
	}
	b, err := exec.Command(n.Kind.program(t), "status", "--admin", n.Admin, "--json").Output()
	if err == nil {
		n.noLeak(t, "status", string(b), secrets)
	}
}

func (n *Node) noLeak(t testing.TB, where, text string, secrets []string) {
	t.Helper()
	for _, l := range leaks(text, secrets) {
		t.Errorf("%s: %s holds %s", n.Name, where, l)
	}
}
