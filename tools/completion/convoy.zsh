# Completion of Convoy's commands in zsh. In ~/.zshrc, after compinit: eval "$(CLONE/convoy completion zsh)"
_convoy() {
    local line value
    local -a found keys key_lines values value_lines
    found=("${(@f)$("${~words[1]}" complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    for line in "${(@)found[2,-1]}"; do
        value=${line%%$'\t'*}
        if [[ $value == *= ]]; then
            keys+=("$value") key_lines+=("${line/$'\t'/  }")
        else
            values+=("$value") value_lines+=("${line/$'\t'/  }")
        fi
    done
    # After a setting follows its value, not a space.
    (( $#keys )) && compadd -S '' -l -d key_lines -a keys
    (( $#values )) && compadd -l -d value_lines -a values
    if [[ $found[1] == files ]]; then
        compset -P '*='
        _files
    fi
}
compdef _convoy convoy
