package launch

import (
	"fmt"
	"slices"
	"strings"
)

// Note is what the user should know before the program starts: what an SDK would do, and what to
// change. It is of one line, and has no secret; but a value of the environment may be in it.
type Note string

// managedIdentity is the member of DefaultAzureCredential that asks us.
const managedIdentity = "ManagedIdentityCredential"

// notes are about an inherited environment. gone are variables that the program does not get.
func notes(req Request, inherited map[string]string, gone []string) []Note {
	var found []Note
	for _, name := range gone {
		if inherited[name] != "" {
			found = append(found, Note(name+" leads SDKs to another source of tokens: the program does not get it"))
		}
	}
	if !slices.Contains(wanted(req.Families), chain) {
		return found
	}
	pinned, note := choice(inherited[tokenCredentials])
	if note == "" && !pinned {
		note = earlier(inherited)
	}
	if note != "" {
		return append(found, note) // it asks for no managed identity
	}
	return append(found, clientID(req, inherited)...)
}

// choice tells what AZURE_TOKEN_CREDENTIALS does. Pinned says that DefaultAzureCredential asks for
// a managed identity and for nothing else.
func choice(value string) (pinned bool, note Note) {
	switch {
	case value == "" || strings.EqualFold(value, onlyDeployed):
		return false, ""
	case strings.EqualFold(value, managedIdentity):
		return true, ""
	case strings.EqualFold(value, "dev"):
		note = "with it DefaultAzureCredential asks developers' tools only"
	default:
		note = "with it DefaultAzureCredential asks nothing else, or fails"
	}
	return false, Note(fmt.Sprintf("%s=%s: %s, and never keyagent; unset it, or set it to %s", tokenCredentials, clip(value), note, managedIdentity))
}

// earlier tells of a credential that DefaultAzureCredential takes before a managed identity.
func earlier(inherited map[string]string) Note {
	has := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return inherited[name] == "" })
	}
	for _, credential := range []struct {
		needs []string
		takes string
	}{
		{[]string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"}, "EnvironmentCredential"},
		{[]string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_CERTIFICATE_PATH"}, "EnvironmentCredential"},
		{[]string{"AZURE_CLIENT_ID", "AZURE_USERNAME", "AZURE_PASSWORD"}, "EnvironmentCredential"},
		{[]string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"}, "WorkloadIdentityCredential"},
	} {
		if last := credential.needs[len(credential.needs)-1]; has(credential.needs...) {
			return Note(fmt.Sprintf("%s is set: DefaultAzureCredential takes %s first, and does not ask keyagent; unset it, or set %s=%s",
				last, credential.takes, tokenCredentials, managedIdentity))
		}
	}
	return ""
}

// clientID tells of an identity that SDKs ask for by name.
func clientID(req Request, inherited map[string]string) []Note {
	const name = "AZURE_CLIENT_ID"
	asked := inherited[name]
	if asked == "" || strings.EqualFold(asked, req.ClientID) {
		return nil
	}
	is := "that may be another"
	if req.ClientID != "" {
		is = "whose client id is " + req.ClientID
	}
	return []Note{Note(fmt.Sprintf("%s=%s: DefaultAzureCredential asks for the identity with this client id, not for %q, %s; unset it to get %[3]q",
		name, clip(asked), req.Endpoint.Identity, is))}
}

// maxQuoted limits what a note quotes.
const maxQuoted = 80

func clip(value string) string {
	if len(value) > maxQuoted {
		return strings.ToValidUTF8(value[:maxQuoted], "") + "…"
	}
	return value
}
