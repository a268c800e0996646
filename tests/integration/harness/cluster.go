package harness

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tailscale.com/tailcfg"
)

// CertKind says how a node proves itself.
type CertKind string

const (
	CertCA       CertKind = "ca"       // a DNS name and a certificate of the test's authority
	CertPin      CertKind = "pin"      // an address; a self-signed certificate from a file, pinned in the map
	CertMade     CertKind = "made"     // an address; the node makes its certificate, the pin goes into the map then
	CertInsecure CertKind = "insecure" // an address; the node makes its certificate, nobody checks it
	CertNone     CertKind = "plain"    // plain HTTP, as behind a proxy that terminates TLS
)

// Spec is what a test asks for.
type Spec struct {
	Kind    Kind
	Regions []int // number of nodes in each region, from region 900
	Cert    CertKind
	Kinds   []Kind   // of the nodes in order, where they are not all of one kind; derpers mesh inside their region then
	Args    []string // more flags for each node
	NoStart bool     // the test starts the nodes itself
}

// Cluster is a derpMap and the nodes in it.
type Cluster struct {
	Spec
	Dir           string
	MapFile       string
	KeyFile       string // mesh keys
	DerperKeyFile string // the key that derpers share, and nodes with derpers; the same as KeyFile where all are derpers
	CA            *CA
	Nodes         []*Node // those in the map

	all      []*Node // those taken out of it too
	caFile   string
	meshKeys []string // all that were ever set
	block    string   // "127.x.y.", the nodes are .1, .2, …
	port     int      // next port to try
}

// Node is one relay node of a cluster.
type Node struct {
	*tailcfg.DERPNode
	Kind    Kind
	Addr    string // its own loopback address
	Dir     string // its state
	CertDir string
	Admin   string
	Log     string
	Args    []string // more flags for this one

	c    *Cluster
	proc *Proc
}

var blocks atomic.Uint32

// New lays out a cluster and, unless told otherwise, starts it and waits until every node knows every other.
// The nodes end with the test, which fails if one of them did not end cleanly.
func New(t testing.TB, spec Spec) *Cluster {
	t.Helper()
	spec.Kind.program(t) // fails here if it is missing
	if spec.Cert == "" {
		spec.Cert = CertCA
	}
	dir, err := os.MkdirTemp("", "dm")
	must(t, err)
	// Another address block for each cluster and process: packages are tested beside each other.
	n := uint32(os.Getpid())*37 + blocks.Add(1)
	c := &Cluster{
		Spec:    spec,
		Dir:     dir,
		MapFile: filepath.Join(dir, "derpmap.json"),
		KeyFile: filepath.Join(dir, "mesh.key"),
		CA:      NewCA(t),
		caFile:  filepath.Join(dir, "ca.pem"),
		block:   fmt.Sprintf("127.%d.%d.", 1+(n/250)%250, 1+n%250),
		port:    20000 + mrand.IntN(9000),
	}
	t.Cleanup(func() { c.end(t) })
	c.DerperKeyFile = c.KeyFile
	if spec.Kinds != nil {
		c.DerperKeyFile = filepath.Join(dir, "derper-mesh.key")
		key := NewMeshKey()
		c.meshKeys = append(c.meshKeys, key)
		WriteFile(t, c.DerperKeyFile, []byte(key+"\n"))
	}
	must(t, os.WriteFile(c.caFile, c.CA.PEM, 0o600))
	c.SetMeshKeys(t, NewMeshKey())
	for i, count := range spec.Regions {
		for range count {
			c.AddNode(t, 900+i)
		}
	}
	c.WriteMap(t)
	if !spec.NoStart {
		c.StartAll(t)
	}
	return c
}

// StartAll starts all nodes and waits for the mesh.
func (c *Cluster) StartAll(t testing.TB) {
	t.Helper()
	for _, n := range c.Nodes {
		n.Start(t)
	}
	for _, n := range c.Nodes {
		n.WaitReady(t)
	}
	if c.Cert == CertMade {
		c.pinMade(t)
	}
	c.WaitMesh(t)
}

// end stops the nodes, checks how they ended, and prints their logs if the test failed.
func (c *Cluster) end(t testing.TB) {
	started := slices.DeleteFunc(slices.Clone(c.all), func(n *Node) bool { return n.proc == nil })
	secrets := c.secrets()
	for _, n := range started {
		c.checkSecrets(t, n, secrets)
	}
	var wg sync.WaitGroup
	for _, n := range started {
		wg.Go(func() { n.proc.stop(t) })
	}
	wg.Wait()
	for _, n := range started {
		checkLog(t, n.Name, n.Log)
		if b, err := os.ReadFile(n.Log); err == nil {
			n.noLeak(t, "its log", string(b), secrets)
		}
	}
	if t.Failed() {
		for _, n := range started {
			printLog(t, n.Name, n.Log)
		}
	}
	if os.Getenv("KEEP") != "" {
		t.Logf("kept: %s", c.Dir)
		return
	}
	os.RemoveAll(c.Dir)
}

// NewMeshKey returns 64 hex digits.
func NewMeshKey() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// SetMeshKeys writes the file of mesh keys, the one to be used first.
func (c *Cluster) SetMeshKeys(t testing.TB, keys ...string) {
	t.Helper()
	c.meshKeys = append(c.meshKeys, keys...)
	WriteFile(t, c.KeyFile, []byte(strings.Join(keys, "\n")+"\n"))
}

// AddNode puts one more node into the region, in memory only: WriteMap tells the others.
func (c *Cluster) AddNode(t testing.TB, region int) *Node {
	t.Helper()
	i := len(c.all) + 1
	name := fmt.Sprintf("n%d", i)
	n := &Node{
		Kind: c.Kind,
		Addr: fmt.Sprintf("%s%d", c.block, i),
		Dir:  filepath.Join(c.Dir, name),
		c:    c,
	}
	if i <= len(c.Kinds) {
		n.Kind = c.Kinds[i-1]
	}
	n.CertDir = filepath.Join(n.Dir, "certs")
	n.Admin = filepath.Join(n.Dir, "admin.sock")
	n.Log = filepath.Join(c.Dir, name+".log")
	must(t, os.MkdirAll(n.CertDir, 0o700))
	n.DERPNode = &tailcfg.DERPNode{
		Name:     name,
		RegionID: region,
		HostName: n.Addr,
		IPv4:     n.Addr,
		IPv6:     "none",
		DERPPort: c.freePort(t, n.Addr),
		STUNPort: c.freePort(t, n.Addr),
	}
	switch c.Cert {
	case CertCA:
		n.HostName = fmt.Sprintf("%s.%s.derpmesh.test", name, strings.ReplaceAll(c.block[:len(c.block)-1], ".", "-"))
		c.CA.Issue(t, n.HostName, time.Now().AddDate(0, 3, 0)).Write(t, n.CertDir, n.HostName)
	case CertPin:
		pair := (*CA)(nil).Issue(t, n.HostName, time.Now().AddDate(10, 0, 0))
		pair.Write(t, n.CertDir, n.HostName)
		n.CertName = Pin(pair.Cert)
	case CertInsecure:
		n.InsecureForTests = true
	}
	c.Nodes = append(c.Nodes, n)
	c.all = append(c.all, n)
	return n
}

// RemoveNode takes the node out of the map, in memory only; the program goes on until it is stopped.
func (c *Cluster) RemoveNode(n *Node) {
	c.Nodes = slices.DeleteFunc(c.Nodes, func(o *Node) bool { return o == n })
}

// Beside is an address and a port of this cluster's block for a program beside the nodes.
func (c *Cluster) Beside(t testing.TB, last int) (addr string, port int) {
	t.Helper()
	addr = fmt.Sprintf("%s%d", c.block, last)
	return addr, c.freePort(t, addr)
}

// freePort finds a port of addr that is free for TCP and UDP, below those that the system gives to clients.
func (c *Cluster) freePort(t testing.TB, addr string) int {
	t.Helper()
	for range 1000 {
		c.port++
		where := net.JoinHostPort(addr, fmt.Sprint(c.port))
		l, err := net.Listen("tcp", where)
		if err != nil {
			continue
		}
		l.Close()
		u, err := net.ListenPacket("udp", where)
		if err != nil {
			continue
		}
		u.Close()
		return c.port
	}
	t.Fatalf("no free port on %s", addr)
	return 0
}

// Map is the derpMap as clients get it.
func (c *Cluster) Map() *tailcfg.DERPMap {
	m := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}, OmitDefaultRegions: true}
	for _, n := range c.Nodes {
		r := m.Regions[n.RegionID]
		if r == nil {
			r = &tailcfg.DERPRegion{
				RegionID:   n.RegionID,
				RegionCode: fmt.Sprintf("r%d", n.RegionID),
				RegionName: fmt.Sprintf("Region %d", n.RegionID),
			}
			m.Regions[n.RegionID] = r
		}
		node := *n.DERPNode
		r.Nodes = append(r.Nodes, &node)
	}
	return m
}

// WriteMap replaces the map file; running nodes read it at the next Hup.
func (c *Cluster) WriteMap(t testing.TB) {
	t.Helper()
	b, err := json.MarshalIndent(c.Map(), "", "  ")
	must(t, err)
	WriteFile(t, c.MapFile, append(b, '\n'))
}

// pinMade does what a person does after the first start: it takes the pins of the certificates that the nodes
// have made into the map.
func (c *Cluster) pinMade(t testing.TB) {
	t.Helper()
	for _, n := range c.Nodes {
		cert, err := readCert(filepath.Join(n.CertDir, n.HostName+".crt"))
		must(t, err)
		n.CertName = Pin(cert)
		b, err := os.ReadFile(n.Log)
		must(t, err)
		if !strings.Contains(string(b), n.CertName) {
			t.Errorf("%s: its log does not show the pin %s for the derpMap", n.Name, n.CertName)
		}
	}
	c.WriteMap(t)
	if c.Kind == Derpmesh {
		c.Hup(t)
	}
}

// Hup makes all running nodes read their files again.
func (c *Cluster) Hup(t testing.TB) {
	t.Helper()
	for _, n := range c.Nodes {
		if n.Running() {
			n.Hup(t)
		}
	}
}

// Start runs the node; it does not wait.
func (n *Node) Start(t testing.TB) {
	t.Helper()
	env := []string{"SSL_CERT_FILE=" + n.c.caFile, "HOME=" + n.Dir}
	n.proc = startProc(t, n.Name, n.Log, env, n.Kind.program(t), n.args()...)
}

func (n *Node) args() []string {
	where := net.JoinHostPort(n.Addr, fmt.Sprint(n.DERPPort))
	if n.Kind == Derper {
		args := []string{"-a", where, "-http-port", "-1", "-stun-port", fmt.Sprint(n.STUNPort),
			"-c", filepath.Join(n.Dir, "derper.key"), "-mesh-psk-file", n.c.DerperKeyFile}
		if n.c.Cert != CertNone {
			args = append(args, "-certmode", "manual", "-certdir", n.CertDir, "-hostname", n.HostName)
		}
		var peers []string
		for _, p := range n.c.Nodes {
			if p != n && (n.c.Kinds == nil || p.RegionID == n.RegionID) {
				peers = append(peers, fmt.Sprintf("%s:%d/%s", p.HostName, p.DERPPort, p.Addr))
			}
		}
		if len(peers) > 0 {
			args = append(args, "-mesh-with", strings.Join(peers, ","))
		}
		return append(args, n.c.Args...)
	}
	args := []string{"serve", "--map", n.c.MapFile, "--node", n.Name, "--state", n.Dir,
		"--mesh-key-file", n.c.KeyFile, "--admin", n.Admin, "--metrics", "off", "--listen-http", "off"}
	switch n.c.Cert {
	case CertNone:
		args = append(args, "--tls", "off")
	case CertCA, CertPin:
		args = append(args, "--cert-dir", n.CertDir)
	}
	if n.c.Kinds != nil {
		args = append(args, "--derper-mesh-key-file", n.c.DerperKeyFile)
	}
	if derpers := n.c.derpers(); len(derpers) > 0 && n.c.Kinds != nil {
		args = append(args, "--derper-peers", strings.Join(derpers, ","))
	}
	return append(append(args, n.c.Args...), n.Args...)
}

// derpers are the names of the nodes that are derpers now.
func (c *Cluster) derpers() (names []string) {
	for _, n := range c.Nodes {
		if n.Kind == Derper {
			names = append(names, n.Name)
		}
	}
	return names
}

// Running says whether the program is there.
func (n *Node) Running() bool { return n.proc != nil && !n.proc.ended() }

// PID of the running program.
func (n *Node) PID() int { return n.proc.cmd.Process.Pid }

// Hup makes the node read its files again.
func (n *Node) Hup(t testing.TB) { t.Helper(); n.proc.signal(t, syscall.SIGHUP) }

// Kill ends the node as kill -9 does.
func (n *Node) Kill(t testing.TB) { t.Helper(); n.proc.kill(t) }

// Stop ends the node in order.
func (n *Node) Stop(t testing.TB) { t.Helper(); n.proc.stop(t) }

// WaitReady waits until the node takes connections and, derpmesh, answers `status`.
func (n *Node) WaitReady(t testing.TB) {
	t.Helper()
	where := net.JoinHostPort(n.Addr, fmt.Sprint(n.DERPPort))
	Eventually(t, 20*time.Second, n.Name+" ready", func() error {
		if n.proc.ended() {
			t.Fatalf("%s ended while starting: %v", n.Name, n.proc.err)
		}
		conn, err := net.DialTimeout("tcp", where, time.Second)
		if err != nil {
			return err
		}
		conn.Close()
		if n.Kind == Derper {
			return nil
		}
		_, err = n.Status()
		return err
	})
}

// AdmissionSource is what a node says of the service that it asks who may use it.
type AdmissionSource struct {
	URL   string `json:"url"`
	Path  string `json:"path"`
	Out   bool   `json:"out"`
	Error string `json:"error"`
}

// Status is the part of `derpmesh status --json` that tests look at.
type Status struct {
	Node    string `json:"node"`
	Clients struct {
		Connections int `json:"connections"`
		Keys        int `json:"keys"`
		Home        int `json:"home"`
	} `json:"clients"`
	Mesh struct {
		Enabled    bool `json:"enabled"`
		RemoteKeys int  `json:"remote_keys"`
		Peers      []struct {
			Name       string  `json:"name"`
			State      string  `json:"state"`
			DialedByUs bool    `json:"dialed_by_us"`
			RTT        float64 `json:"rtt_ms"`
			Keys       int     `json:"keys"`
			Synced     bool    `json:"synced"`
			Error      string  `json:"error"`
		} `json:"peers"`
	} `json:"mesh"`
	OpenToAnyone bool `json:"open_to_anyone"`
	Admission    struct {
		Allow *struct {
			File  string `json:"file"`
			Keys  int    `json:"keys"`
			Error string `json:"error"`
		} `json:"allow"`
		URL       *AdmissionSource `json:"verify_url"`
		Socket    *AdmissionSource `json:"verify_socket"`
		Mode      string           `json:"mode"`
		Asked     int              `json:"asked"`
		Admitted  int              `json:"admitted"`
		Refused   int              `json:"refused"`
		Closed    int              `json:"closed"`
		Questions int              `json:"questions"`
		Outages   int              `json:"outages"`
	} `json:"admission"`
	Traffic  map[string]int64  `json:"traffic"`
	Problems []json.RawMessage `json:"problems"`
}

// Status asks the node (derpmesh only) over its admin socket.
func (n *Node) Status() (*Status, error) {
	cmd := exec.Command(os.Getenv("DERPMESH_BIN"), "status", "--admin", n.Admin, "--json")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("status of %s: %w", n.Name, err)
	}
	s := new(Status)
	if err := json.Unmarshal(out, s); err != nil {
		return nil, fmt.Errorf("status of %s: %w in %s", n.Name, err, out)
	}
	return s, nil
}

// WaitMesh waits until each running node has a synchronised link to each other running one, and to no one
// who is not in the map.
func (c *Cluster) WaitMesh(t testing.TB) {
	t.Helper()
	if c.Kind == Derper {
		c.waitDerpers(t)
		return
	}
	if c.Cert == CertNone {
		return // the mesh needs TLS
	}
	for _, n := range c.Nodes {
		if n.Running() && n.Kind == Derpmesh {
			Eventually(t, 40*time.Second, n.Name+": links to all others", func() error { return c.linked(n) })
		}
	}
}

func (c *Cluster) linked(n *Node) error {
	s, err := n.Status()
	if err != nil {
		return err
	}
	state := map[string]string{}
	for _, p := range s.Mesh.Peers {
		state[p.Name] = p.State
		if p.State == "up" && !p.Synced {
			state[p.Name] = "not synced"
		}
		if p.Error != "" && p.State != "up" {
			state[p.Name] += ": " + p.Error
		}
	}
	for _, p := range c.Nodes {
		if p == n || p.Kind == Derper && p.RegionID != n.RegionID {
			continue
		}
		if p.Running() && state[p.Name] != "up" {
			return fmt.Errorf("link to %s: %q", p.Name, state[p.Name])
		}
		delete(state, p.Name)
	}
	if len(state) > 0 {
		return fmt.Errorf("has peers that are not in the map: %v", state)
	}
	return nil
}

// waitDerpers waits until frames cross between each two of the nodes: derper has no status to ask.
func (c *Cluster) waitDerpers(t testing.TB) {
	t.Helper()
	if len(c.Nodes) < 2 {
		return
	}
	var clients []*Client
	for _, n := range c.Nodes {
		clients = append(clients, n.Connect(t, Opts{}))
	}
	c.WaitRoutes(t, clients...)
	for _, cl := range clients {
		cl.Close()
	}
}

// ServedCert is the certificate that the node shows to a new connection.
func (n *Node) ServedCert(t testing.TB) *x509.Certificate {
	t.Helper()
	r := n.TLS(t)
	defer r.Close()
	return r.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
}

// Peer is what the node says of its link to the other: "up" and so on, "" if it knows no such node.
func (n *Node) Peer(other *Node) (string, error) {
	s, err := n.Status()
	if err != nil {
		return "", err
	}
	for _, p := range s.Mesh.Peers {
		if p.Name == other.Name {
			return p.State, nil
		}
	}
	return "", nil
}

// LogSize marks a place in the node's log for LogSince.
func (n *Node) LogSize(t testing.TB) int64 {
	t.Helper()
	fi, err := os.Stat(n.Log)
	must(t, err)
	return fi.Size()
}

// Complaints are the lines of level warn or error that the node logged since then.
func (n *Node) Complaints(t testing.TB, since int64) (lines []string) {
	t.Helper()
	b, err := os.ReadFile(n.Log)
	must(t, err)
	for line := range strings.Lines(string(b[since:])) {
		if !strings.HasSuffix(line, "\n") {
			continue // still being written
		}
		// The level comes first, or after the time.
		for _, word := range strings.Fields(line)[:min(3, len(strings.Fields(line)))] {
			if word == "warn" || word == "error" {
				lines = append(lines, strings.TrimSpace(line))
				break
			}
		}
	}
	return lines
}

// CAFile is the authority's certificate, for programs that read SSL_CERT_FILE.
func (c *Cluster) CAFile() string { return c.caFile }
