package compose

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

const domain = "relay-n.test"

// The tutorials' layout: nginx has the port and the certificate.  It serves as soon as there is one and takes over the next,
// clients get through, the mesh too where the others say that this node is proxied, and the node knows who the clients are.
func TestBehindNginx(t *testing.T) {
	makeInternet(t)
	ca := harness.NewCA(t)
	meshKey := []byte(harness.NewMeshKey() + "\n")
	k := key.NewNode()
	public, err := k.Public().MarshalText()
	must(t, err)
	front := &host{name: "fra-1", number: 1, file: filepath.Join(deploy(t), "compose.yaml"), dir: t.TempDir()}
	front.services = fmt.Sprintf("    networks:\n      default: {}\n      internet:\n        ipv4_address: %s\n", front.addr())
	behind := &host{name: "hkg-1", number: 2, file: filepath.Join(deploy(t), "compose.behind-nginx.yaml"), dir: t.TempDir()}
	behind.services = fmt.Sprintf("    networks:\n      internet:\n        ipv4_address: %s13\n  nginx:\n    networks:\n      internet:\n        ipv4_address: %s\n",
		block, behind.addr())
	letsencrypt := filepath.Join(behind.dir, "letsencrypt")
	live := filepath.Join(letsencrypt, "live", domain)
	must(t, os.MkdirAll(live, 0o755))
	front.prepare(t, "DERPMESH_ADMISSION=/etc/derpmesh/allow.txt", "DERPMESH_CERT_DIR=/etc/derpmesh/certs")
	behind.prepare(t, "DERPMESH_ADMISSION=/etc/derpmesh/allow.txt", "DERPMESH_DOMAIN="+domain, "LETSENCRYPT="+letsencrypt,
		"DERPMESH_PROXY_NET="+block+"128/28", "DERPMESH_PROXY_NODE="+block+"131", "DERPMESH_TRUSTED_PROXIES="+block+"130")
	frontCert := ca.Issue(t, "relay-f.test", time.Now().AddDate(1, 0, 0))
	derpMap := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{
		900: {RegionID: 900, RegionCode: "fra", Nodes: []*tailcfg.DERPNode{{Name: "fra-1", RegionID: 900, HostName: "relay-f.test", IPv4: front.addr(), IPv6: "none"}}},
		901: {RegionID: 901, RegionCode: "hkg", Nodes: []*tailcfg.DERPNode{{Name: "hkg-1", RegionID: 901, HostName: domain, IPv4: behind.addr(), IPv6: "none"}}},
	}}
	text, err := json.Marshal(derpMap)
	must(t, err)
	for _, h := range []*host{front, behind} {
		h.give(t, "mesh.key", meshKey)
		h.give(t, "ca.pem", ca.PEM)
		h.give(t, "derpmap.json", text)
		h.give(t, "allow.txt", append(public, '\n'))
	}
	front.give(t, "certs/relay-f.test.key", frontCert.KeyPEM)
	front.give(t, "certs/relay-f.test.crt", frontCert.CertPEM)
	front.give(t, "derpmesh.yaml", []byte("mesh_proxied: hkg-1\n"))
	front.up(t)
	behind.up(t, "derpmesh", "nginx")
	behind.waitHealth(t, "healthy")

	// Before there is a certificate: port 80.
	for path, want := range map[string]int{"/generate_204": 204, "/elsewhere": 301} {
		harness.Eventually(t, 30*time.Second, "port 80 of nginx", func() error {
			c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			r, err := c.Get("http://" + behind.addr() + path)
			if err != nil {
				return err
			}
			defer r.Body.Close()
			if r.StatusCode != want {
				return fmt.Errorf("%s: %s", path, r.Status)
			}
			return nil
		})
	}
	for range 2 {
		cert := ca.Issue(t, domain, time.Now().AddDate(1, 0, 0))
		harness.WriteFile(t, filepath.Join(live, "privkey.pem"), cert.KeyPEM)
		harness.WriteFile(t, filepath.Join(live, "fullchain.pem"), cert.CertPEM)
		harness.Eventually(t, 60*time.Second, "nginx serves the new certificate", func() error {
			got, err := served(behind.addr()+":443", domain)
			if err == nil && !got.Equal(cert.Cert) {
				err = errors.New("another one")
			}
			return err
		})
	}
	front.waitLinks(t, 1)
	behind.waitLinks(t, 1)
	k2 := key.NewNode()
	public2, err := k2.Public().MarshalText()
	must(t, err)
	front.give(t, "allow.txt", append(append(public, '\n'), public2...))
	clients := []*client{newClient(t, k, derpMap.Regions[901], ca.Pool), newClient(t, k2, derpMap.Regions[900], ca.Pool)}
	waitLogins(t, 30*time.Second, map[*client]int{}, clients)
	pairs, sent := everyPair(t, clients)
	t.Logf("| a client behind nginx and one elsewhere: %d pairs, %d packets sent", pairs, sent)

	// A stranger is refused, and the log names its address and not nginx's.
	docker("exec", front.id(t), "derpmesh", "probe", "--map", "/etc/derpmesh/derpmap.json", "--from", "hkg-1", "--to", "hkg-1")
	logs, err := exec.Command("docker", "logs", behind.id(t)).CombinedOutput()
	must(t, err)
	if !strings.Contains(string(logs), "from="+front.addr()) {
		t.Errorf("the log does not name %s:\n%s", front.addr(), logs)
	}
}
