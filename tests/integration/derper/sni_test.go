package derper

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

// TestSNI: what a client that asks for another name, or none, is shown by a node with a DNS name.  A derper with -certmode
// manual ends the handshake with alert 80, whatever is not spelled exactly so.  Ours shows its certificate, on purpose: a
// client whose map is older than a change of names still gets in by its pin, one that checks the name says which one it
// found, and names have no case.
func TestSNI(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := harness.New(t, harness.Spec{Kind: k, Regions: []int{1}}).Nodes[0]
		want := n.ServedCert(t)
		for _, name := range []string{"other.derpmesh.test", strings.ToUpper(n.HostName), ""} {
			conn := tls.Client(n.TCP(t), &tls.Config{ServerName: name, InsecureSkipVerify: true})
			conn.SetDeadline(time.Now().Add(harness.Scaled(10 * time.Second)))
			err := conn.Handshake()
			if k == harness.Derper {
				if err == nil || !strings.Contains(err.Error(), "internal error") {
					t.Errorf("%q: derper says %v, not alert 80", name, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%q: %v", name, err)
			} else if got := conn.ConnectionState().PeerCertificates[0]; !got.Equal(want) {
				t.Errorf("%q: another certificate: %v", name, got.Subject)
			}
		}
	})
}
