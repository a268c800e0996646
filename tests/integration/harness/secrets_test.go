package harness

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
)

func TestLeaksSees(t *testing.T) {
	a, b := NewMeshKey(), NewMeshKey()
	raw, _ := hex.DecodeString(a)
	for _, text := range []string{"key=" + a, strings.ToUpper(a), "x" + string(raw) + "y", base64.StdEncoding.EncodeToString(raw)} {
		if got := leaks(text, []string{b, a}); len(got) != 1 || got[0] != "secret 2 of 2" {
			t.Errorf("%q: %v", text, got)
		}
	}
	if got := leaks("nodekey:"+NewMeshKey(), []string{a, b}); len(got) != 0 {
		t.Errorf("a public key: %v", got)
	}
}
