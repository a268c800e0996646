package derper

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"derpmesh/tests/integration/harness"
)

var update = flag.Bool("update", false, "write docs/derper-flags.md anew")

const document = "../../../docs/derper-flags.md"

// outcome runs a derper that must end by itself.
func outcome(t *testing.T, k harness.Kind, args ...string) (code int, stderr string) {
	t.Helper()
	cmd := exec.Command(program(t, k), args...)
	var out bytes.Buffer
	cmd.Stderr = &out
	cmd.Dir = t.TempDir()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

type flagLine struct{ kind, def, what string }

var (
	flagHead = regexp.MustCompile(`^  -([a-z-]+)(?: (\S+))?$`)
	flagDef  = regexp.MustCompile(` \(default (.+)\)$`)
)

// usage reads what -h prints.
func usage(t *testing.T, k harness.Kind) (names []string, flags map[string]flagLine) {
	t.Helper()
	code, text := outcome(t, k, "-h")
	if code != 0 {
		t.Fatalf("%s -h ends with %d", k, code)
	}
	flags = map[string]flagLine{}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		m := flagHead.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		f := flagLine{kind: m[2], what: strings.TrimSpace(lines[i+1])}
		if d := flagDef.FindStringSubmatch(f.what); d != nil {
			f.def = d[1]
			f.what = strings.TrimSuffix(f.what, d[0])
		}
		names = append(names, m[1])
		flags[m[1]] = f
	}
	return names, flags
}

// Defaults that depend on the machine, and the one type that derper's own text garbles (a word in backquotes there).
var differing = map[string]string{
	"certdir":                         "depends on HOME",
	"secrets-cache-dir":               "depends on HOME",
	"mesh-psk-file":                   "depends on which files are there",
	"unpublished-bootstrap-dns-names": "derper's usage calls its type 0",
}

// TestFlagTable: every flag of the real derper is in our table with its type and default, and none besides; and
// docs/derper-flags.md says the same.
func TestFlagTable(t *testing.T) {
	names, theirs := usage(t, harness.Derper)
	ourNames, ours := usage(t, harness.Derpmesh)
	if len(names) < 30 {
		t.Fatalf("derper -h lists only %v", names)
	}
	var doc strings.Builder
	doc.WriteString("# derper's flags\n\n" +
		"Started under the name `derper`, the program takes the flags of Tailscale's derper (v1.102.5), by the rules of Go's\n" +
		"package flag: `-x`, `--x`, `-x=v`, `-x v`; booleans take a value only as `-x=v`. `-stun false` ends the flags, in\n" +
		"silence with derper; here a warning says so. What is refused ends the program with a sentence.\n\n" +
		"This table is made by `go test ./derper -run TestFlagTable -update` from `derper -h` and our own.\n\n" +
		"| flag | type | default | here |\n|---|---|---|---|\n")
	for _, name := range names {
		want, have := theirs[name], ours[name]
		if have.what == "" {
			t.Errorf("-%s is missing", name)
			continue
		}
		if differing[name] == "" && (want.kind != have.kind || want.def != have.def) {
			t.Errorf("-%s: derper has %q (default %s), we have %q (default %s)", name, want.kind, want.def, have.kind, have.def)
		}
		kind, def := have.kind, have.def
		if kind == "" {
			kind = "bool"
		}
		if def == "" && kind == "bool" {
			def = "false"
		}
		if differing[name] != "" && def == "" {
			def = differing[name]
		}
		if def != "" && differing[name] == "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&doc, "| `-%s` | %s | %s | %s |\n", name, kind, def, strings.ReplaceAll(have.what, "|", `\|`))
	}
	for _, name := range ourNames {
		if _, ok := theirs[name]; !ok {
			t.Errorf("-%s is none of derper's", name)
		}
	}
	if *update {
		if err := os.WriteFile(document, []byte(doc.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(document)
	if err != nil || string(have) != doc.String() {
		t.Errorf("%s is not what derper -h and ours say (%v): run the test with -update", document, err)
	}
}

// TestFlagSyntax: the same command lines are taken and refused, with the same exit code and the same first line.
// -version ends a derper after its flags were read.
func TestFlagSyntax(t *testing.T) {
	lines := [][]string{
		{}, {"-stun"}, {"--stun"}, {"-stun=false"}, {"-stun=F"}, {"-stun=yes"}, {"-stun="}, {"-stun=TRUE"}, {"-stun=tRUE"},
		{"-a"}, {"-a="}, {"-a", ""}, {"--a", ":1"}, {"-a=:1=2"}, {"---a"}, {"-=a"}, {"--=a"}, {"-foo"}, {"-foo=1"}, {"-A", "x"},
		{"-http-port", "-1"}, {"-http-port", "0x50"}, {"-http-port", "1_0"}, {"-http-port", "0b1"}, {"-http-port", "08"},
		{"-http-port", "0o17"}, {"-http-port", "1.0"}, {"-http-port", " 1"}, {"-http-port", "1__0"}, {"-http-port", "_1"},
		{"-http-port", "0x_1"}, {"-http-port", "1_"}, {"-http-port", ""}, {"-http-port="}, {"-http-port", "+5"}, {"-http-port", "0_7"},
		{"-accept-connection-limit", "1.5"}, {"-accept-connection-limit", "Inf"}, {"-accept-connection-limit", "-infinity"},
		{"-accept-connection-limit", "NaN"}, {"-accept-connection-limit", "x"}, {"-accept-connection-limit", ""},
		{"-accept-connection-limit", "1e3"}, {"-accept-connection-limit", "0x1p3"}, {"-accept-connection-limit", "."},
		{"-accept-connection-limit", "1 "},
		{"-tcp-user-timeout", "5"}, {"-tcp-user-timeout", "5s"}, {"-tcp-user-timeout", "1.5h"}, {"-tcp-user-timeout", "-3m"},
		{"-tcp-user-timeout", "1h2m3s4ms5us6ns"}, {"-tcp-user-timeout", "5µs"}, {"-tcp-user-timeout", "1d"},
		{"-tcp-user-timeout", ""}, {"-tcp-user-timeout", "0"}, {"-tcp-user-timeout", ".s"}, {"-tcp-user-timeout", "+.5m"},
		{"-tcp-user-timeout", "s"}, {"-tcp-user-timeout", "3 s"}, {"-hostname", "-stun"}, {"-c", "--"}, {"-dev", "-c"},
	}
	for _, line := range lines {
		t.Run(strings.Join(line, " "), func(t *testing.T) {
			t.Parallel()
			args := append([]string{"-version"}, line...)
			code, text := outcome(t, harness.Derper, args...)
			ourCode, ourText := outcome(t, harness.Derpmesh, args...)
			first := func(s string) string {
				s, _, _ = strings.Cut(s, "\n")
				// Go says which kind of wrong a number is.
				return strings.ReplaceAll(s, ": value out of range", ": parse error")
			}
			if code != ourCode || first(text) != first(ourText) {
				t.Errorf("derper: %d %q\nderpmesh: %d %q", code, first(text), ourCode, first(ourText))
			}
		})
	}
}
