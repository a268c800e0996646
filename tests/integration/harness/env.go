// Package harness starts relay nodes as separate programs on loopback addresses and drives them with
// Tailscale's own client code.
//
// The program under test is derpmesh (DERPMESH_BIN).  Tailscale's derper (DERPER_BIN) serves as the reference:
// what a test asks of derpmesh it asks of derper first, as far as derper can serve, so that a wrong test shows
// itself.  A test never skips because a program is missing: it fails.
//
// Settings: DERPMESH_BIN, DERPER_BIN, DERPPROBE_BIN; TIME_SCALE multiplies every time limit (sanitizer builds);
// KEEP=1 leaves the directories of the nodes; -long runs what takes minutes.
package harness

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

var parallel = flag.Int("side-by-side", 8, "tests of a package that run at a time; 0: as go test says")

var long = flag.Bool("long", os.Getenv("LONG") == "1", "also run the tests that take a minute or more")

// Kind is the program that serves as relay node.
type Kind string

const (
	Derper   Kind = "derper"
	Derpmesh Kind = "derpmesh"
	Renamed  Kind = "renamed" // derpmesh under the name derper, with derper's flags
)

// Program returns the path in the environment variable env; the test fails if there is none.
func Program(t testing.TB, env string) string {
	t.Helper()
	path := os.Getenv(env)
	if path == "" {
		t.Fatalf("%s is not set: it must name the built program", env)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	return path
}

func (k Kind) program(t testing.TB) string {
	if k == Derper {
		return Program(t, "DERPER_BIN")
	}
	if k == Renamed {
		link := filepath.Join(t.TempDir(), "derper")
		must(t, os.Symlink(Program(t, "DERPMESH_BIN"), link))
		return link
	}
	return Program(t, "DERPMESH_BIN")
}

// Each runs f as a subtest for the reference and for the program under test, beside each other and beside other
// tests.
func Each(t *testing.T, f func(t *testing.T, k Kind)) {
	t.Parallel()
	EachInTurn(t, func(t *testing.T, k Kind) {
		t.Parallel()
		f(t, k)
	})
}

// EachInTurn is Each with nothing of this package beside it, for what keeps the cores busy.
func EachInTurn(t *testing.T, f func(t *testing.T, k Kind)) {
	for _, k := range []Kind{Derper, Derpmesh} {
		t.Run(string(k), func(t *testing.T) { f(t, k) })
	}
}

// Main is every package's TestMain.  The tests wait more than they work, so more of them go side by side than
// there are cores.
func Main(m *testing.M) {
	flag.Parse()
	if *parallel > 0 {
		flag.Set("test.parallel", strconv.Itoa(*parallel))
	}
	code := m.Run()
	for _, f := range then {
		f()
	}
	os.Exit(code)
}

var then []func()

// Then is called before Main ends, after all tests.
func Then(f func()) { then = append(then, f) }

// Long says whether -long was given.
func Long() bool { return *long }

// SkipUnlessLong leaves out what takes minutes unless -long was given.
func SkipUnlessLong(t testing.TB) {
	t.Helper()
	if !*long {
		t.Skip("takes minutes: run with -long")
	}
}

var timeScale = func() float64 {
	s := os.Getenv("TIME_SCALE")
	if s == "" {
		return 1
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v < 1 {
		fmt.Fprintf(os.Stderr, "TIME_SCALE=%q: want a number of at least 1\n", s)
		os.Exit(2)
	}
	return v
}()

// Scaled is d, longer where TIME_SCALE says that the build is slow.  For limits, never for what must be waited.
func Scaled(d time.Duration) time.Duration { return time.Duration(float64(d) * timeScale) }

// Eventually polls f until it returns nil; after the (scaled) limit the test fails with f's last error.
func Eventually(t testing.TB, limit time.Duration, what string, f func() error) {
	t.Helper()
	if err := Poll(limit, f); err != nil {
		t.Fatalf("%s: not within %v: %v", what, Scaled(limit), err)
	}
}

// Poll calls f until it returns nil, or the (scaled) limit is over; it returns f's last error.
func Poll(limit time.Duration, f func() error) error {
	deadline := time.Now().Add(Scaled(limit))
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(25 * time.Millisecond)
	}
}
