package compose

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	"derpmesh/tests/integration/harness"
)

// What the image needs for `tls: acme` is in it, and works with a root that cannot be written: a certificate of a real authority
// (pebble; that it asks on port 80 is tested in ../acme), unhealthy while clients would not trust it.
func TestAcme(t *testing.T) {
	makeInternet(t)
	const name = "relay-x.test"
	gateway := block + "1" // the machine's own address in that network
	dir := t.TempDir()
	ca := harness.NewCA(t)
	ca.Issue(t, gateway, time.Now().AddDate(0, 1, 0)).Write(t, dir, "pebble")
	conf, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": gateway + ":14000", "managementListenAddress": "127.91.0.1:15000",
		"certificate": filepath.Join(dir, "pebble.crt"), "privateKey": filepath.Join(dir, "pebble.key"),
		"httpPort": 80, "tlsPort": 443, "keyAlgorithm": "ecdsa", "retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{"description": "a test's", "validityPeriod": 7776000}},
	}})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "pebble.json"), conf, 0o600))
	h := &host{name: "fra-1", number: 1, file: filepath.Join(deploy(t), "compose.yaml"), dir: t.TempDir()}
	h.services = fmt.Sprintf(`    networks:
      default: {}
      internet:
        ipv4_address: %s
    volumes:
      - %s/ca.pem:/etc/ssl/certs/ca-certificates.crt:ro
`, h.addr(), dir)
	must(t, os.WriteFile(filepath.Join(dir, "ca.pem"), ca.PEM, 0o644))
	h.prepare(t, "DERPMESH_ADMISSION=open", "DERPMESH_MESH_KEY_FILE=", "DERPMESH_TLS=acme", "DERPMESH_ACME_EMAIL=who@derpmesh.test")
	text, err := json.Marshal(&tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{900: {RegionID: 900, RegionCode: "fra",
		Nodes: []*tailcfg.DERPNode{{Name: h.name, RegionID: 900, HostName: name, IPv4: h.addr(), IPv6: "none"}}}}})
	must(t, err)
	h.give(t, "derpmap.json", text)
	h.give(t, "derpmesh.yaml", []byte("acme_url: https://"+gateway+":14000/dir\n"))
	h.give(t, "ca.pem", nil) // SSL_CERT_FILE of the override: nobody is trusted yet
	harness.RunProgram(t, dir, harness.Program(t, "PEBBLE_BIN"),
		[]string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0", "PEBBLE_VA_ALWAYS_VALID=1"}, "-config", filepath.Join(dir, "pebble.json"))
	var root []byte
	harness.Eventually(t, 20*time.Second, "pebble ready", func() error {
		c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 5 * time.Second}
		resp, err := c.Get("https://127.91.0.1:15000/roots/0")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		root, err = io.ReadAll(resp.Body)
		return err
	})
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		t.Fatalf("pebble's root is none: %s", root)
	}
	h.up(t)
	h.waitHealth(t, "unhealthy")
	harness.Eventually(t, 90*time.Second, "a certificate of the authority", func() error {
		cert, err := served(h.addr()+":443", name)
		if err == nil && cert.Issuer.CommonName == cert.Subject.CommonName {
			err = errors.New("still its own")
		}
		return err
	})
	h.give(t, "ca.pem", root)
	h.waitHealth(t, "healthy")
	h.up(t, "--force-recreate")
	h.waitHealth(t, "healthy") // the certificate was in the volume
}
