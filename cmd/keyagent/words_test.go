package main

import (
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/advice"
)

// Advice must not send anybody to a command or a flag that is not there.
func TestAdviceNamesCommandsThatExist(t *testing.T) {
	root := (&app{}).rootCommand()
	flags := map[string]bool{}
	for verb, line := range commandWords() {
		cmd, rest, err := root.Find(strings.Fields(line))
		if err != nil || len(rest) > 0 {
			t.Errorf("%s: %q is no command: %v", verb, line, err)
			continue
		}
		for _, word := range flagWords() {
			name := strings.TrimPrefix(word.name, "--")
			flags[word.name] = flags[word.name] || cmd.Flags().Lookup(name) != nil || cmd.InheritedFlags().Lookup(name) != nil
		}
	}
	for flag, word := range flagWords() {
		if !flags[word.name] {
			t.Errorf("%s: no command has the flag %s", flag, word.name)
		}
	}
}

func TestAdviceIsTypedAsItIsShown(t *testing.T) {
	for want, a := range map[string]advice.Advice{
		"keyagent key rotate app --cancel begins": advice.New("%s begins", advice.Run(advice.RotateKey, "app", advice.Cancel)),
		"keyagent key csr app --subject CN=app":   advice.New("%s", advice.Run(advice.RequestCertificate, "app", advice.Subject.Is("CN=app"))),
		"--auth-file FILE or --no-auth":           advice.New("%s or %s", advice.AuthFile, advice.NoAuth),
		"keyagent cert import a --file 'b c.pem'": advice.New("%s", advice.Run(advice.ImportCertificate, "a", advice.File.Is("b c.pem"))),
		"sudo -u agent keyagent …":                advice.New("sudo -u agent %s", advice.Run(advice.Anything, "")),
	} {
		if got := a.Text(words{}); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
