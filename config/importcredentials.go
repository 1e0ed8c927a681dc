package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keyagent/keyagent/internal/cloud"
)

const noSecrets = "left out: a secret can be copied, and keyagent takes none; register a certificate or a federated credential instead"

// credentialList is where a section has its credentials, by the name that messages use.
func (im *Imported) credentialList() (name string, list *settings) {
	name = "ClientCredentials"
	if !im.section.has(name) && im.section.has("ClientCertificates") {
		name = "ClientCertificates"
	}
	return name, im.section.at(name)
}

func (im *Imported) takeCredentials() error {
	name, list := im.credentialList()
	if _, err := im.section.flag("SendX5C"); err != nil {
		return err
	}
	if err := im.takeOldManagedIdentity(); err != nil {
		return err
	}
	switch {
	case len(list.list()) > maxImportedCredentials:
		return fmt.Errorf("%s: more than %d entries", im.in(name), maxImportedCredentials)
	case list.at("SourceType") != nil && !list.at("SourceType").isSection():
		return fmt.Errorf("%s: a single entry, where .NET takes a list of them and nothing else: put it in brackets, [ { … } ]", im.in(name))
	case list.says() && !list.isSection():
		im.note(name + ": left out: a single value, where there should be a list of entries")
	}
	for _, entry := range list.list() {
		at := fmt.Sprintf("%s[%s]", name, plainName(entry.name))
		if !entry.isSection() {
			im.note(at + ": left out: not an object")
			continue
		}
		if err := im.takeCredential(at, entry); err != nil {
			return err
		}
	}
	if len(im.Identity.Application.Credentials) > 0 {
		return nil
	}
	problems := []error{fmt.Errorf("%s has no credential that keyagent can use", cmp.Or(im.section.label(), "the section"))}
	for _, notice := range im.Notices {
		problems = append(problems, errors.New(notice))
	}
	return errors.Join(problems...)
}

// takeOldManagedIdentity takes the settings of the time before lists of credentials
// (MergedOptions.ComputeFromLegacyClientCredentials).
func (im *Imported) takeOldManagedIdentity() error {
	const name = "ClientCredentialsUsingManagedIdentity"
	old := im.section.at(name)
	if im.section.has("ClientCredentials") {
		return nil
	}
	enabled, err := old.flag("IsEnabled")
	if err == nil && enabled {
		delete(old.below, "isenabled") // an entry of a list has no such setting
		im.takeManagedIdentity(name, old)
	}
	return err
}

// sourceTypes are the values of SourceType, at their numbers.
var sourceTypes = []string{
	"Certificate", "KeyVault", "Base64Encoded", "Path", "StoreWithThumbprint", "StoreWithDistinguishedName", "ClientSecret",
	"SignedAssertionFromManagedIdentity", "SignedAssertionFilePath", "SignedAssertionFromVault", "AutoDecryptKeys",
	"CustomSignedAssertion", "ManagedCertificate", "StoreWithSubjectName",
}

// sourceType returns the name of an entry's SourceType, or nothing for one that is not
// known.
func sourceType(given string) string {
	if n, err := strconv.Atoi(given); err == nil && n >= 0 && n < len(sourceTypes) {
		return sourceTypes[n]
	}
	i := slices.IndexFunc(sourceTypes, func(known string) bool { return strings.EqualFold(known, given) })
	if i < 0 {
		return ""
	}
	return sourceTypes[i]
}

// takeCredential takes an entry of the list, or notes why not. It is an error if .NET would not
// start with the entry, or if leaving it out could change how well the credential is protected.
func (im *Imported) takeCredential(at string, entry *settings) error {
	skip, skipErr := entry.flag("Skip")
	_, boundErr := entry.flag("UseBoundCredential")
	if err := errors.Join(skipErr, boundErr); err != nil {
		return err
	}
	given := entry.text("SourceType")
	kind := sourceType(given)
	if kind != "" {
		at += " (" + kind + ")"
	}
	switch {
	case skip:
		im.note(at + ": left out: Skip is true, and Microsoft.Identity.Web passes it over, too")
	case given == "":
		im.note(at + ": left out: it has no SourceType")
	case kind == "":
		im.note(at + ": left out: its SourceType is not known")
	default:
		im.takeKind(kind, at, entry)
	}
	return nil
}

func (im *Imported) takeKind(kind, at string, entry *settings) {
	switch kind {
	case "SignedAssertionFromManagedIdentity":
		im.takeManagedIdentity(at, entry)
	case "Certificate", "KeyVault", "Base64Encoded", "Path", "StoreWithThumbprint", "StoreWithDistinguishedName", "StoreWithSubjectName":
		im.takeCertificate(at, entry)
	case "SignedAssertionFilePath":
		im.takeFile(at, entry)
	case "CustomSignedAssertion":
		im.note(at + ": left out: if it is the token of another identity (OIDC), configure that as an identity of its own, and add an entry with source: oidc, identity: NAME")
	case "ClientSecret":
		im.note(at + ": " + noSecrets)
	case "SignedAssertionFromVault":
		im.note(at + ": left out: keyagent signs with keys in this VM's TPM, not with those of a Key Vault; use a certificate or a managed identity")
	default:
		im.note(at + ": left out: keyagent has nothing like it")
	}
}

// publicAudience is what Microsoft.Identity.Web asks for in every cloud.
const publicAudience = cloud.PublicExchangeAudience

func (im *Imported) takeManagedIdentity(at string, entry *settings) {
	inCloud := im.Identity.Application.Cloud
	c := Credential{
		Source:          SourceManagedIdentity,
		ManagedIdentity: &ManagedIdentitySelector{ClientID: plainGUID(entry.text("ManagedIdentityClientId"))},
		Audience:        strings.TrimSuffix(entry.text("TokenExchangeUrl"), "/.default"),
	}
	var notices []string
	if c.Audience == "" && inCloud != "" {
		c.Audience = publicAudience
		notices = append(notices, at+": no TokenExchangeUrl: the audience is that of the public cloud, as Microsoft.Identity.Web takes it; "+
			"see whether the federated credential in this cloud names another")
	}
	if c.Audience == publicAudience && inCloud == "" {
		c.Audience = ""
	}
	if entry.has("TokenExchangeAuthority") {
		notices = append(notices, at+": TokenExchangeAuthority left out: this VM's own cloud issues the assertion")
	}
	im.keep(at, entry, c, notices)
}

func (im *Imported) takeCertificate(at string, entry *settings) {
	certificates := 1
	for _, c := range im.Identity.Application.Credentials {
		if c.Source == SourceCertificate {
			certificates++
		}
	}
	key := numbered(im.keyBase(), certificates)
	im.keep(at, entry, Credential{Source: SourceCertificate, Key: key}, []string{
		at + ": its private key stays where it is: make another in the TPM (keyagent key create " + key +
			"; if that is another application's, take another name for it, and at key), " + im.certificateFor(key, entry),
	})
}

// certificateFor says how the key gets a certificate. Over mutual TLS, Entra takes those of an
// authority, and so does an app that sends the chain have one (SendX5C).
func (im *Imported) certificateFor(key string, entry *settings) string {
	bound, _ := entry.flag("UseBoundCredential") // takeCredential has seen to errors
	chain, _ := im.section.flag("SendX5C")       // and takeCredentials to this one's
	if bound || chain || im.boundByAPIs() != BoundNever {
		return "have an authority issue a certificate for it, which the application trusts by subject name and issuer (keyagent key csr " + key + " --subject CN=" + key + " --out " + key +
			".csr), and put that beside the key (keyagent cert import " + key + " --file FILE)"
	}
	return "a certificate for it (keyagent key self-sign " + key + " --subject CN=" + key + "), and register that with the application"
}

// keyBase is the name of the first key: that of the identity, if a key can have it.
func (im *Imported) keyBase() string {
	if keyName(im.opts.Name) {
		return im.opts.Name
	}
	return im.Identity.Name
}

// ownKey is the name of the agent's own key, which no application has.
const ownKey = "binding"

// keyName reports whether a key of an application can have a name.
func keyName(name string) bool { return namePattern.MatchString(name) && name != ownKey }

// fileVariable is where .NET finds the path of an assertion that is not in the entry, as with
// workload identities (AzureIdentityForKubernetesClientAssertion).
const fileVariable = "AZURE_FEDERATED_TOKEN_FILE"

func (im *Imported) takeFile(at string, entry *settings) {
	var notices []string
	path := entry.text("SignedAssertionFileDiskPath")
	misplaced := ""
	if entry.has("SignedAssertionFilePath") {
		misplaced = "; SignedAssertionFilePath is the name of the source, not of its path's setting (SignedAssertionFileDiskPath), and .NET does not look at it"
	}
	switch bound, _ := entry.flag("UseBoundCredential"); {
	case bound:
		im.note(at + ": left out: UseBoundCredential is true, which Microsoft.Identity.Web refuses for an assertion in a file (IDW10115): " +
			"no key stands behind it; take UseBoundCredential away, or use a managed identity or a certificate")
		return
	case path == "" && im.opts.FederatedTokenFile == "":
		im.note(at + ": left out: it has no SignedAssertionFileDiskPath, and " + fileVariable + ", where .NET then finds the path, is neither in these settings nor in this command's environment" + misplaced)
		return
	case path == "":
		path = im.opts.FederatedTokenFile
		notices = append(notices, at+": the path is that of "+fileVariable+misplaced)
	}
	if im.boundByAPIs() != BoundNever {
		notices = append(notices, at+": gives no token that is bound to a certificate (MTLS_POP), here as in Microsoft.Identity.Web (IDW10115)")
	}
	im.keep(at, entry, Credential{Source: SourceAssertionFile, Path: path, Bound: BoundNever}, notices)
}

// keep adds an entry if it is valid in a configuration.
func (im *Imported) keep(at string, entry *settings, c Credential, notices []string) {
	bound, _ := entry.flag("UseBoundCredential") // takeCredential has seen to errors
	byAPIs := im.boundByAPIs()
	switch {
	case c.Bound != "":
	case bound:
		c.Bound = BoundRequire
	case byAPIs != BoundNever:
		c.Bound = byAPIs
		notices = append(notices, at+": UseBoundCredential is not true, yet APIs ask for tokens that are bound to a certificate (MTLS_POP), hence bound: "+byAPIs)
	default:
		c.Bound = BoundNever
		notices = append(notices, at+": UseBoundCredential is not true, hence bound: never; with require a copy of it is worthless")
	}
	app := im.Identity.Application
	whole, f := c, findings{}
	whole.Name = "imported"
	whole.complete(cmp.Or(app.Cloud, CloudPublic))
	if whole.check(&f, at); len(f) > 0 {
		im.note("left out: " + strings.Join(f, "; "))
		return
	}
	notices = append(notices, entry.unused(at+".", entrySettings)...)
	app.Credentials = append(app.Credentials, c)
	im.entries = append(im.entries, notices)
	im.Notices = append(im.Notices, notices...)
}
