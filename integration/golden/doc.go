// Package golden holds what users and other programs rely on against files in
// testdata/golden: the JSON of Caddyfiles, the names of modules, and their JSON fields. It
// knows the modules only as Caddy does, by their ids, so it does not care where their code is.
//
// After a change that is intended, `make golden` writes the files anew.
package golden
