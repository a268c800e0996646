package derper

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strings"
	"testing"

	"derpmesh/tests/integration/harness"
)

// answer is what a request got, without what always differs.
type answer struct {
	status  string
	headers string
	body    string
}

func (a answer) String() string { return a.status + "\n" + a.headers + "\n" + a.body }

// ask sends these bytes and reads one response.
func (r *relay) ask(t *testing.T, where, request string) answer {
	t.Helper()
	conn := r.dial(t, where)
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		return answer{status: "closed"}
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return answer{status: harness.Ended(err)}
	}
	a := answer{status: fmt.Sprintf("%s %s", resp.Proto, resp.Status)}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		b, _ := io.ReadAll(resp.Body)
		a.body = string(b)
	}
	// Whether the connection ends is of the answer too; ReadResponse takes these two out.
	resp.Header.Del("Date") // no clock where pages are made
	if resp.Close {
		resp.Header.Set("Connection", "close")
	}
	if resp.ContentLength >= 0 && resp.Header.Get("Content-Length") == "" && len(a.body) > 0 {
		resp.Header.Set("Content-Length", fmt.Sprint(resp.ContentLength))
	}
	resp.Header.Del("Derp-Public-Key") // each has its own
	var lines []string
	for name, values := range resp.Header {
		for _, v := range values {
			lines = append(lines, name+": "+strings.ReplaceAll(v, r.addr, "ADDR"))
		}
	}
	sort.Strings(lines)
	a.headers = strings.Join(lines, "\n")
	return a
}

// A request to both, and what may differ.
type request struct {
	name, text string
	// Why not all agrees; then only this much has to.
	why  string
	same func(a answer) string
}

func status(a answer) string { return a.status }

func number(a answer) string { return a.status[:min(len(a.status), len("HTTP/1.1 400"))] }

func nothing(answer) string { return "" }

func statusAndHeaders(a answer) string {
	var keep []string
	for _, line := range strings.Split(a.headers, "\n") {
		if !strings.HasPrefix(line, "Content-Length:") {
			keep = append(keep, line)
		}
	}
	return a.status + "\n" + strings.Join(keep, "\n")
}

func statusAndBody(a answer) string { return a.status + "\n" + a.body }

func get(path string, headers ...string) string {
	return do("GET", path, headers...)
}

func do(method, path string, headers ...string) string {
	return method + " " + path + " HTTP/1.1\r\nHost: relay.test\r\n" + strings.Join(append(headers, "", ""), "\r\n")
}

const (
	ownPage  = "the home page is our own text"
	ownText  = "our redirects carry our own text"
	oneBody  = "a request with a body is the last one of its connection"
	cleaned  = "Go's mux redirects paths that are not clean; here they are pages as they stand"
	sentence = "the sentence after the number is our own"
	frugal   = "no keep-alive with HTTP/1.0"
	noGo     = "of a Go program's insides there is nothing to show"
)

var mainRequests = []request{
	{name: "home", text: get("/"), why: ownPage, same: statusAndHeaders},
	{name: "home head", text: do("HEAD", "/"), why: ownPage, same: statusAndHeaders},
	{name: "home post", text: do("POST", "/"), why: ownPage, same: statusAndHeaders},
	{name: "home options", text: do("OPTIONS", "/"), why: ownPage, same: statusAndHeaders},
	{name: "unknown path", text: get("/no/such?x=1"), why: ownPage, same: statusAndHeaders},
	{name: "odd method", text: do("BREW", "/x"), why: ownPage, same: statusAndHeaders},
	{name: "robots", text: get("/robots.txt")},
	{name: "robots head", text: do("HEAD", "/robots.txt")},
	{name: "robots post", text: do("POST", "/robots.txt")},
	{name: "probe", text: get("/derp/probe")},
	{name: "probe head", text: do("HEAD", "/derp/probe")},
	{name: "probe post", text: do("POST", "/derp/probe")},
	{name: "probe put", text: do("PUT", "/derp/latency-check")},
	{name: "latency check", text: get("/derp/latency-check")},
	{name: "204", text: get("/generate_204")},
	{name: "204 head", text: do("HEAD", "/generate_204")},
	{name: "204 post", text: do("POST", "/generate_204")},
	{name: "challenge", text: get("/generate_204", "X-Tailscale-Challenge: ts_a.b-c:9")},
	{name: "challenge with a blank", text: get("/generate_204", "X-Tailscale-Challenge: a b")},
	{name: "challenge of 64", text: get("/generate_204", "X-Tailscale-Challenge: "+strings.Repeat("a", 64))},
	{name: "challenge of 65", text: get("/generate_204", "X-Tailscale-Challenge: "+strings.Repeat("a", 65))},
	{name: "challenge empty", text: get("/generate_204", "X-Tailscale-Challenge:")},
	{name: "challenge twice", text: get("/generate_204", "X-Tailscale-Challenge: a", "X-Tailscale-Challenge: b")},
	{name: "bootstrap", text: get("/bootstrap-dns")},
	{name: "bootstrap q", text: get("/bootstrap-dns?q=derp.example.com")},
	{name: "bootstrap head", text: do("HEAD", "/bootstrap-dns")},
	{name: "bootstrap post", text: do("POST", "/bootstrap-dns")},
	{name: "derp without upgrade", text: get("/derp")},
	{name: "derp head", text: do("HEAD", "/derp")},
	{name: "derp post", text: do("POST", "/derp")},
	{name: "derp weird upgrade", text: get("/derp", "Upgrade: h2c", "Connection: Upgrade")},
	{name: "derp", text: get("/derp", "Upgrade: DERP", "Connection: Upgrade")},
	{name: "derp lower case, no Connection", text: get("/derp", "Upgrade: derp")},
	{name: "derp post upgrade", text: do("POST", "/derp", "Upgrade: DERP", "Connection: Upgrade")},
	{name: "derp 1.0", text: "GET /derp HTTP/1.0\r\nUpgrade: DERP\r\n\r\n"},
	{name: "derp websocket without subprotocol", text: get("/derp", "Upgrade: websocket", "Connection: Upgrade")},
	{name: "derp slow start", text: get("/derp", "Upgrade: DERP", "Derp-Fast-Start: 0")},
	{name: "derp ideal node", text: get("/derp", "Upgrade: DERP", "Ideal-Node: 900z")},
	{name: "derp below", text: get("/derp/", "Upgrade: DERP"), why: ownPage, same: statusAndHeaders},
	{name: "debug", text: get("/debug")},
	{name: "debug post", text: do("POST", "/debug")},
	{name: "debug index", text: get("/debug/"), why: noGo, same: statusAndHeaders},
	{name: "debug forwarded", text: get("/debug/", "X-Forwarded-For: 192.0.2.1")},
	{name: "varz head", text: do("HEAD", "/debug/varz"), why: "our length is known before", same: statusAndHeaders},
	{name: "varz forwarded", text: get("/debug/varz", "X-Forwarded-For: 127.0.0.1")},
	{name: "varz forwarded, empty", text: do("HEAD", "/debug/varz", "X-Forwarded-For:"), why: "our length is known before", same: statusAndHeaders},
	{name: "debug unknown", text: get("/debug/no-such")},
	{name: "debug unknown forwarded", text: get("/debug/no-such", "X-Forwarded-For: 192.0.2.1")},
	{name: "pprof forwarded", text: get("/debug/pprof/", "X-Forwarded-For: 192.0.2.1")},
	{name: "pprof", text: get("/debug/pprof/"), why: noGo, same: nothing},
	{name: "close", text: get("/robots.txt", "Connection: close")},
	{name: "1.0", text: "GET /robots.txt HTTP/1.0\r\n\r\n"},
	{name: "1.0 keep-alive", text: "GET /robots.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", why: frugal, same: statusAndBody},
	{name: "absolute form", text: get("http://other.test/robots.txt")},
	{name: "options star", text: do("OPTIONS", "*")},
	{name: "body", text: do("POST", "/robots.txt", "Content-Length: 3") + "abc", why: oneBody, same: statusAndBody},
	{name: "chunked body", text: do("POST", "/robots.txt", "Transfer-Encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n", why: oneBody, same: statusAndBody},
	{name: "double slash", text: get("//robots.txt"), why: cleaned, same: nothing},
	{name: "dots", text: get("/a/../robots.txt"), why: cleaned, same: nothing},
	// No HTTP, or bad HTTP.
	{name: "no host", text: "GET /robots.txt HTTP/1.1\r\n\r\n", why: sentence, same: number},
	{name: "two hosts", text: get("/robots.txt", "Host: b"), why: sentence, same: number},
	{name: "no version", text: "GET /robots.txt\r\n\r\n"},
	{name: "version 3", text: "GET /robots.txt HTTP/3.0\r\nHost: x\r\n\r\n"},
	{name: "version 9.9", text: "GET / HTTP/9.9\r\nHost: x\r\n\r\n"},
	{name: "version text", text: "GET / HTTP/x\r\nHost: x\r\n\r\n"},
	{name: "garbage", text: "\x01\x02\x03 garbage\r\n\r\n"},
	{name: "header without colon", text: get("/robots.txt", "nocolon")},
	{name: "blank before colon", text: get("/robots.txt", "Name : value"), why: sentence, same: number},
	{name: "negative length", text: do("POST", "/robots.txt", "Content-Length: -1"), why: sentence, same: number},
	{name: "two lengths", text: do("POST", "/robots.txt", "Content-Length: 1", "Content-Length: 2") + "ab", why: sentence, same: number},
	{name: "unknown coding", text: do("POST", "/robots.txt", "Transfer-Encoding: gzip"), why: sentence, same: number},
	{name: "control character in path", text: get("/a\x01b")},
	{name: "huge header", text: get("/robots.txt", "X: "+strings.Repeat("a", 2<<20)), why: "Go takes a megabyte, we take 16 KiB: both say 431 and close, which may cut the answer off", same: nothing},
}

var port80Requests = []request{
	{name: "home", text: get("/"), why: "derper sends loopback to /debug/", same: status},
	{name: "path", text: get("/a/b?c=d"), why: ownText, same: status},
	{name: "head", text: do("HEAD", "/a"), why: ownText, same: status},
	{name: "post", text: do("POST", "/a")},
	{name: "204", text: get("/generate_204", "X-Tailscale-Challenge: x")},
	{name: "204 post", text: do("POST", "/generate_204")},
	{name: "robots", text: get("/robots.txt"), why: ownText, same: status},
	{name: "derp", text: get("/derp", "Upgrade: DERP"), why: ownText, same: status},
	{name: "debug", text: get("/debug")},
	{name: "debug forwarded", text: get("/debug/varz", "X-Forwarded-For: 1.2.3.4")},
	{name: "debug unknown", text: get("/debug/nope")},
}

// compare asks both for all of it.
func compare(t *testing.T, theirs, ours *relay, where func(r *relay) string, list []request) {
	t.Helper()
	for _, r := range list {
		t.Run(r.name, func(t *testing.T) {
			a, b := theirs.ask(t, where(theirs), r.text), ours.ask(t, where(ours), r.text)
			same := answer.String
			if r.why != "" {
				same = r.same
			}
			if same(a) != same(b) {
				t.Errorf("derper:\n%s\n\nderpmesh:\n%s", a, b)
			}
		})
	}
}

func mainPort(r *relay) string { return r.addr }
func port80(r *relay) string   { return r.http }

// TestRequests: good requests and bad ones get what derper says.
func TestRequests(t *testing.T) {
	for _, tls := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "tls"}[tls]
		t.Run(name, func(t *testing.T) {
			theirs, ours := start(t, harness.Derper, tls), start(t, harness.Derpmesh, tls)
			compare(t, theirs, ours, mainPort, mainRequests)
			connect := []request{{name: "connect", text: "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
				why: "we end the connection then", same: statusAndBody}}
			if !tls {
				connect[0].why, connect[0].same = ownPage+", and a tunnel is none of its paths", nothing
			}
			compare(t, theirs, ours, mainPort, connect)
			if tls {
				t.Run("port 80", func(t *testing.T) { compare(t, theirs, ours, port80, port80Requests) })
			}
		})
	}
}

// TestHomes: the values of -home, and -derp=false.
func TestHomes(t *testing.T) {
	pages := []request{
		{name: "get", text: get("/")}, {name: "head", text: do("HEAD", "/")}, {name: "post", text: do("POST", "/x")},
		{name: "robots", text: get("/robots.txt")},
	}
	for _, home := range []string{"blank", "https://home.example/a?b=c&d", "http://home.example"} {
		t.Run(home, func(t *testing.T) {
			compare(t, start(t, harness.Derper, false, "-home", home), start(t, harness.Derpmesh, false, "-home", home), mainPort, pages)
		})
	}
	t.Run("no derp", func(t *testing.T) {
		compare(t, start(t, harness.Derper, false, "-derp=false"), start(t, harness.Derpmesh, false, "-derp=false"), mainPort, []request{
			{name: "derp", text: get("/derp", "Upgrade: DERP")},
			{name: "derp plain", text: get("/derp")},
			{name: "websocket", text: get("/derp", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Protocol: derp",
				"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")},
			{name: "probe", text: get("/derp/probe")},
			{name: "home", text: get("/"), why: ownPage, same: statusAndHeaders},
		})
	})
}

// TestBootstrapDNS: names published and not, known and unknown.
func TestBootstrapDNS(t *testing.T) {
	flags := []string{"-bootstrap-dns-names", "localhost,127.0.0.9,no-such-name.invalid", "-unpublished-bootstrap-dns-names", "127.0.0.8"}
	theirs, ours := start(t, harness.Derper, false, flags...), start(t, harness.Derpmesh, false, flags...)
	for _, r := range []*relay{theirs, ours} {
		harness.Eventually(t, 30e9, "names are looked up", func() error {
			for _, path := range []string{"/bootstrap-dns", "/bootstrap-dns?q=127.0.0.8"} {
				if a := r.ask(t, r.addr, get(path)); !strings.Contains(a.body, "127.0.0.") || (strings.Contains(path, "?") && !strings.Contains(a.body, "127.0.0.8")) {
					return fmt.Errorf("%s: %s", path, a)
				}
			}
			return nil
		})
	}
	var list []request
	for _, q := range []string{"", "?q=", "?q=localhost", "?q=127.0.0.8", "?q=127%2e0.0.8", "?a=b&q=127.0.0.8&q=x", "?q=nobody.test",
		"?q=no-such-name.invalid", "?Q=127.0.0.8"} {
		list = append(list, request{name: "q" + q, text: get("/bootstrap-dns" + q)})
	}
	compare(t, theirs, ours, mainPort, list)
}
