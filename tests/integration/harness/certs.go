package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA is a certificate authority of the test's own.  It issues by an intermediate, as those on the internet do.
type CA struct {
	Pool *x509.CertPool
	PEM  []byte // the root
	sub  *x509.Certificate
	key  *ecdsa.PrivateKey // of sub
}

// NewCA makes an authority that lives as long as the test.
func NewCA(t testing.TB) *CA {
	t.Helper()
	root, rootKey := newAuthority(t, "integration test root", nil, nil)
	sub, subKey := newAuthority(t, "integration test intermediate", root, rootKey)
	ca := &CA{Pool: x509.NewCertPool(), PEM: pemOf("CERTIFICATE", root.Raw), sub: sub, key: subKey}
	ca.Pool.AddCert(root)
	return ca
}

func newAuthority(t testing.TB, name string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber:          newSerial(t),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-72 * time.Hour),
		NotAfter:              time.Now().AddDate(1, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert, key
}

// Pair is a certificate with its chain and key, as files hold them.
type Pair struct {
	Cert    *x509.Certificate
	CertPEM []byte
	KeyPEM  []byte
}

// Issue makes a certificate for host (a DNS name or an address), valid until the given time; a nil CA makes a
// self-signed one.
func (ca *CA) Issue(t testing.TB, host string, until time.Time) Pair {
	t.Helper()
	return ca.IssueFrom(t, host, time.Now().Add(-48*time.Hour), until)
}

// IssueFrom is Issue with a beginning of its own.
func (ca *CA) IssueFrom(t testing.TB, host string, from, until time.Time) Pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber:          newSerial(t),
		Subject:               pkix.Name{CommonName: host},
		NotBefore:             from,
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		tmpl.IPAddresses = []net.IP{ip}
	} else {
		tmpl.DNSNames = []string{host}
	}
	parent, signer := tmpl, key
	if ca != nil {
		parent, signer = ca.sub, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	chain := pemOf("CERTIFICATE", der)
	if ca != nil {
		chain = append(chain, pemOf("CERTIFICATE", ca.sub.Raw)...)
	}
	return Pair{Cert: cert, CertPEM: chain, KeyPEM: pemOf("EC PRIVATE KEY", keyDER)}
}

// Write puts the pair into dir as <host>.crt and <host>.key, each by rename.
func (p Pair) Write(t testing.TB, dir, host string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	WriteFile(t, filepath.Join(dir, host+".key"), p.KeyPEM)
	WriteFile(t, filepath.Join(dir, host+".crt"), p.CertPEM)
}

// Pin is the derpMap's CertName for a certificate: SHA-256 over all of it.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return "sha256-raw:" + hex.EncodeToString(sum[:])
}

// WriteFile replaces path by rename, so that no reader ever sees half a file.
func WriteFile(t testing.TB, path string, content []byte) {
	t.Helper()
	tmp := path + ".new"
	must(t, os.WriteFile(tmp, content, 0o600))
	must(t, os.Rename(tmp, path))
}

func readCert(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func newSerial(t testing.TB) *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	must(t, err)
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
