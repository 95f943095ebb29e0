# Completion of Convoy's commands in bash. In ~/.bashrc: eval "$(CLONE/convoy completion bash)"
_convoy() {
    local found word=${COMP_WORDS[COMP_CWORD]}
    mapfile -t found < <("${COMP_WORDS[0]/#\~/$HOME}" complete --line "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    COMPREPLY=("${found[@]:1}")
    if [[ ${found[0]} == files ]]; then
        [[ $word == [=:] ]] && word=
        compopt -o filenames
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$word")
    elif [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
}
complete -F _convoy convoy
