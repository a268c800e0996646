package harness

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	"derpmesh/tests/integration/netns"
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
	// Namespaces: each node has a network namespace of its own, named as the node, and Cluster.Net is the network between
	// them.  Clients connect from within their node's namespace unless Opts.From says otherwise.
	Namespaces bool
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
	Net           *netns.Net

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
	Env     []string // more of its environment
	Wrap    []string // a command line that runs it, such as prlimit's

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
	if spec.Namespaces {
		c.Net = netns.New(t, 1)
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

// MeshKey is the first one that was set.
func (c *Cluster) MeshKey() string { return c.meshKeys[0] }

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
	if c.Net != nil {
		n.Addr = c.Net.Add(t, name)
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
	}
	if c.Net != nil {
		n.DERPPort, n.STUNPort = 443, 3478
	} else {
		n.DERPPort, n.STUNPort = c.freePort(t, n.Addr), c.freePort(t, n.Addr)
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

// WaitMesh waits until each running node has a synchronised link to each other running one, and to no one
// who is not in the map.
func (c *Cluster) WaitMesh(t testing.TB) {
	t.Helper()
	if c.Kind != Derpmesh {
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
		if p == n || p.Kind != Derpmesh && p.RegionID != n.RegionID {
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

// CAFile is the authority's certificate, for programs that read SSL_CERT_FILE.
func (c *Cluster) CAFile() string { return c.caFile }

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// derpers are the names of the nodes that are derpers now.
func (c *Cluster) derpers() (names []string) {
	for _, n := range c.Nodes {
		if n.Kind != Derpmesh {
			names = append(names, n.Name)
		}
	}
	return names
}
