package harness

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"go4.org/mem"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// Raw is a connection on which a test writes what it likes.
type Raw struct {
	net.Conn
	R    *bufio.Reader
	W    *bufio.Writer
	Priv key.NodePrivate
	Pub  key.NodePublic
}

// TCP opens a bare connection.
func (n *Node) TCP(t testing.TB) net.Conn {
	t.Helper()
	conn, err := n.dialFor(Scaled(5 * time.Second))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TLS opens a connection with TLS, or a bare one where the node serves plain HTTP.
func (n *Node) TLS(t testing.TB) *Raw {
	t.Helper()
	return n.Over(t, n.TCP(t))
}

// Over is TLS on a connection that leads to the node by whatever way.
func (n *Node) Over(t testing.TB, conn net.Conn) *Raw {
	t.Helper()
	if n.c.Cert != CertNone {
		tc := tls.Client(conn, &tls.Config{ServerName: n.HostName, InsecureSkipVerify: true})
		tc.SetDeadline(time.Now().Add(Scaled(10 * time.Second)))
		if err := tc.Handshake(); err != nil {
			t.Fatalf("TLS to %s: %v", n.Name, err)
		}
		tc.SetDeadline(time.Time{})
		conn = tc
	}
	priv := key.NewNode()
	return &Raw{Conn: conn, R: bufio.NewReader(conn), W: bufio.NewWriter(conn), Priv: priv, Pub: priv.Public()}
}

// Upgrade asks for DERP and returns the server's key; the ClientInfo is still to be sent.
func (r *Raw) Upgrade(t testing.TB, fastStart bool) key.NodePublic {
	t.Helper()
	head := "GET /derp HTTP/1.1\r\nHost: test\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"
	if fastStart {
		head += derp.FastStartHeader + ": 1\r\n"
	}
	_, err := io.WriteString(r, head+"\r\n")
	must(t, err)
	r.SetReadDeadline(time.Now().Add(Scaled(10 * time.Second)))
	if !fastStart {
		resp, err := http.ReadResponse(r.R, nil)
		must(t, err)
		if resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("upgrade: %s", resp.Status)
		}
	}
	f, err := r.ReadFrame()
	must(t, err)
	if f.Type != derp.FrameServerKey || len(f.Body) < 40 || string(f.Body[:8]) != derp.Magic {
		t.Fatalf("first frame is %#x with %d bytes, not a ServerKey", f.Type, len(f.Body))
	}
	return key.NodePublicFromRaw32(mem.B(f.Body[8:40]))
}

// SendClientInfo sends a good login.
func (r *Raw) SendClientInfo(t testing.TB, server key.NodePublic) {
	t.Helper()
	info, err := json.Marshal(derp.ClientInfo{Version: derp.ProtocolVersion})
	must(t, err)
	r.WriteFrame(t, derp.FrameClientInfo, append(r.Pub.AppendTo(nil), r.Priv.SealTo(server, info)...))
}

// LoginRefused sends a good login of a fresh key and returns how the server ended the connection; nil if it did not.
func (n *Node) LoginRefused(t testing.TB) error {
	t.Helper()
	r := n.TLS(t)
	defer r.Close()
	server := r.Upgrade(t, true)
	r.SendClientInfo(t, server)
	_, err := r.ReadFrame()
	return err
}

// Login goes through the DERP login and takes the ServerInfo.
func (n *Node) Login(t testing.TB) *Raw {
	t.Helper()
	r := n.TLS(t)
	r.Login(t)
	return r
}

// Login upgrades and goes through the DERP login.
func (r *Raw) Login(t testing.TB) {
	t.Helper()
	server := r.Upgrade(t, false)
	r.SendClientInfo(t, server)
	f, err := r.ReadFrame()
	must(t, err)
	if f.Type != derp.FrameServerInfo {
		t.Fatalf("frame %#x instead of the ServerInfo", f.Type)
	}
	if msg, ok := r.Priv.OpenFrom(server, f.Body); !ok || string(msg) != `{"version":2}` {
		t.Fatalf("ServerInfo holds %q (opened: %v)", msg, ok)
	}
	r.SetReadDeadline(time.Time{})
}

// Frame is one DERP frame.
type Frame struct {
	Type derp.FrameType
	Body []byte
}

// WriteFrame sends one frame.  What it meets on a connection that the server has closed is no error here.
func (r *Raw) WriteFrame(t testing.TB, ft derp.FrameType, body []byte) {
	derp.WriteFrame(r.W, ft, body)
}

// SendPacket sends a SendPacket frame of any size.
func (r *Raw) SendPacket(t testing.TB, to key.NodePublic, data []byte) {
	r.WriteFrame(t, derp.FrameSendPacket, append(to.AppendTo(nil), data...))
}

// ReadFrame reads one frame.
func (r *Raw) ReadFrame() (Frame, error) {
	ft, n, err := derp.ReadFrameHeader(r.R)
	if err != nil {
		return Frame{}, err
	}
	if n > derp.MaxInfoLen {
		return Frame{}, fmt.Errorf("frame %#x of %d bytes", ft, n)
	}
	body := make([]byte, n)
	_, err = io.ReadFull(r.R, body)
	return Frame{ft, body}, err
}

// Outcome says what became of the connection: it sends a Ping and looks for the Pong, past other frames.
// "open", or "closed" when the server ended the connection; anything else is told.
func (r *Raw) Outcome() string {
	mark := []byte("outcome?")
	derp.WriteFrame(r.W, derp.FramePing, mark)
	return r.waitPong(mark)
}

func (r *Raw) waitPong(mark []byte) string {
	r.SetReadDeadline(time.Now().Add(Scaled(5 * time.Second)))
	defer r.SetReadDeadline(time.Time{})
	for {
		f, err := r.ReadFrame()
		if err != nil {
			return Ended(err)
		}
		if f.Type == derp.FramePong && string(f.Body) == string(mark) {
			return "open"
		}
	}
}

// Ended is "closed" for whatever a closed connection gives, "silent" for a time-out.
func Ended(err error) string {
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return "silent"
	}
	return "closed"
}

// WaitClosed reads until the other side ends the connection; false if it does not within the (scaled) limit.
func WaitClosed(conn net.Conn, limit time.Duration) (got []byte, closed bool) {
	conn.SetReadDeadline(time.Now().Add(Scaled(limit)))
	got, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	return got, err == nil || Ended(err) == "closed"
}
