package derper

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"derpmesh/tests/integration/harness"
)

var keepaliveTimer = regexp.MustCompile(`timer:\(keepalive,(\S+?),`)

// TestTCPKeepalive: -tcp-keepalive-time holds for the connections that clients open.
func TestTCPKeepalive(t *testing.T) {
	for _, tc := range []struct{ flag, timer string }{
		{"", `^(10min|9min)`},
		{"30m", `^(30min|29min)`},
		{"-1s", `^none$`},
	} {
		t.Run(tc.flag, func(t *testing.T) {
			harness.EachInTurn(t, func(t *testing.T, k harness.Kind) {
				var flags []string
				if tc.flag != "" {
					flags = append(flags, "-tcp-keepalive-time", tc.flag)
				}
				r := start(t, k, false, flags...)
				r.dial(t, r.addr)
				r.ask(t, r.addr, get("/")) // by then the first is accepted
				out, err := exec.Command("ss", "-Htnoi", "state", "established", "sport", "=", ":"+portOf(r.addr)).Output()
				if err != nil {
					t.Fatal(err)
				}
				timer := "none"
				if m := keepaliveTimer.FindStringSubmatch(string(out)); m != nil {
					timer = m[1]
				}
				if !regexp.MustCompile(tc.timer).MatchString(timer) {
					t.Errorf("the keep-alive timer of an accepted connection stands at %s, want %s: %s", timer, tc.timer,
						fmt.Sprint(strings.TrimSpace(string(out))))
				}
			})
		})
	}
}
