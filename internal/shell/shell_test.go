package shell_test

import (
	"os/exec"
	"testing"

	"github.com/keyagent/keyagent/internal/shell"
)

// The machine's own shell reads the words.
func TestAShellReadsWhatIsWritten(t *testing.T) {
	for _, tt := range []struct{ value, word string }{
		{"/etc/keyagent/config.yaml", "/etc/keyagent/config.yaml"},
		{"100%d", "100%d"},
		{"", "''"},
		{"/a b", "'/a b'"},
		{"/a;id", "'/a;id'"},
		{"/it's", `'/it'\''s'`},
		{"$HOME `id` \\ \" \n", "'$HOME `id` \\ \" \n'"},
		{"~root", "'~root'"},
	} {
		if got := shell.Word(tt.value); got != tt.word {
			t.Errorf("%q is written %s, want %s", tt.value, got, tt.word)
		}
		for _, word := range []string{shell.Word(tt.value), shell.Quoted(tt.value)} {
			read, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+word).Output()
			if err != nil || string(read) != tt.value {
				t.Errorf("a shell reads %q from %s, want %q (%v)", read, word, tt.value, err)
			}
		}
	}
	if got := shell.Word("-rf"); got != "./-rf" {
		t.Errorf("got %s", got)
	}
}
